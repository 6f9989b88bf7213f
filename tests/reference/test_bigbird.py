"""BigBird against properties that only a correct one has (specs 16a)."""

import pytest
import torch
import torch.nn.functional as F
from reference.sparse_cases import (
    audited,
    drawn,
    full_attention,
    largest_tensor,
    noise,
    refused_where_it_would_leak,
    same_with_gradients,
    slopes,
)

from kt_forecast import zoo
from kt_forecast.audit.cost import growth
from kt_forecast.nn import gathered
from kt_forecast.nn.streams import Span
from kt_forecast.zoo.bigbird import Blocks

SYSTEM = zoo.load("bigbird")
STEPS, WIDTH, HEADS, BLOCK = 43, 16, 2, 4
SMALL = {"width": WIDTH, "heads": HEADS, "block": BLOCK, "window": 2, "random_blocks": 2}


def mixer(**settings: object):
    return drawn(SYSTEM.build(SYSTEM.config(**SMALL | settings)))


def table(blocks, layer=0, **settings: object):
    config = SYSTEM.config(**SMALL | settings)
    return Blocks(config, layer).earlier(torch.arange(blocks)[None])[0]


def test_a_block_reads_itself_its_window_the_first_and_some_between():
    read = table(40)
    for head in range(HEADS):
        for number, row in enumerate(read[head].tolist()):
            used = [block for block in row if block >= 0]
            assert len(used) == len(set(used)) == min(number + 1, 5)
            assert {0, max(number - 1, 0), number} <= set(used)
            assert max(used) == number
    assert not torch.equal(read[0], read[1]), "heads draw blocks of their own"
    assert not torch.equal(read, table(40, layer=1)), "layers draw blocks of their own"
    assert not torch.equal(read, table(40, seed=1))


def test_blocks_drawn_do_not_depend_on_how_many_there_are():
    assert torch.equal(table(40)[:, :17], table(17))
    one = Blocks(SYSTEM.config(**SMALL), 0).earlier(torch.tensor([[16]]))
    assert torch.equal(one[0, :, 0], table(40)[:, 16])


def test_every_earlier_block_is_drawn_about_equally_often():
    """Of the blocks between the first and the window, by many seeds."""
    count = torch.zeros(10)
    for seed in range(400):
        row = table(12, seed=seed)[0, 11]
        count[row[(row > 0) & (row < 10)]] += 1
    wanted = 2 * 400 / 9
    assert count[0] == 0
    assert ((count[1:] - wanted).abs() < 4 * wanted**0.5).all(), count


@pytest.mark.parametrize("at_once", [1, 2**14])
def test_gathered_blocks_equal_a_written_mask(at_once, monkeypatch):
    monkeypatch.setattr(gathered, "NUMBERS_AT_ONCE", at_once)
    module = mixer(layers=1).layers[0].mixing
    x = noise(2, STEPS, WIDTH).requires_grad_()
    mask = torch.zeros(HEADS, STEPS, STEPS, dtype=torch.bool)
    for head, blocks in enumerate(table(11)):
        for number, row in enumerate(blocks.tolist()):
            for other in (block for block in row if block >= 0):
                mask[head, number * 4 : number * 4 + 4, other * 4 : other * 4 + 4] = True

    def written(x):
        def split(t):
            return t.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        place = torch.arange(STEPS)[None]
        q = module.rotary(split(module.query(x)), place)
        k, v = (split(half) for half in module.key_value(x).chunk(2, -1))
        k = module.rotary(k, place)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.tril())
        return module.out(y.transpose(1, 2).flatten(2))

    def ours(x):
        return module(x, module.init_state(2), Span.beginning(x))[0]

    same_with_gradients(ours, written, (x,))


def test_a_window_of_all_blocks_is_full_attention():
    module, x = mixer(window=11), noise(2, STEPS, WIDTH).requires_grad_()
    plain = full_attention(module, width=WIDTH, heads=HEADS, layers=2)
    same_with_gradients(lambda x: module(x)[0], lambda x: plain(x)[0], (x,))


@pytest.mark.parametrize("published", [False, True])
def test_only_the_published_form_sees_the_future(published):
    module, x = mixer(published=published), noise(1, 21, WIDTH)
    assert bool((slopes(module, x).triu(1) > 0).any()) == published


def test_the_auditor_finds_the_published_form():
    report = audited(mixer(published=True, layers=1), noise(2, 19, WIDTH))
    assert report.verdict == "leak", report.summary()


def test_the_published_form_is_refused_where_it_would_leak():
    refused_where_it_would_leak(SYSTEM, SYSTEM.config(width=WIDTH, published=True))


def test_as_published_the_ends_read_everything_and_are_read_by_all():
    module, x = mixer(published=True, layers=1, random_blocks=0), noise(1, 39, WIDTH)
    read = slopes(module, x) > 0
    ends = torch.zeros(39, dtype=torch.bool)
    ends[:4] = ends[36:] = True
    block = torch.arange(39) // 4
    near = (block[:, None] - block).abs() <= 1
    assert torch.equal(read, near | ends | ends[:, None])


def test_as_published_padding_is_not_read():
    module, x = mixer(published=True), noise(2, 19, WIDTH)
    valid = torch.ones(2, 19, dtype=torch.bool)
    valid[0, 13:] = False
    got = module(x, valid=valid)[0]
    other = module(torch.where(valid[..., None], x, 50.0), valid=valid)[0]
    torch.testing.assert_close(got[valid], other[valid], atol=1e-10, rtol=0.0)


def test_no_tensor_of_all_pairs_of_steps():
    module = SYSTEM.build(SYSTEM.config(width=8, heads=1, layers=1, block=16, expansion=1))
    steps = 4096
    x = torch.randn(1, steps, 8, requires_grad=True)
    assert largest_tensor(lambda: module(x)[0].sum().backward()) < steps**2 / 4


@pytest.mark.slow
def test_cost_grows_with_the_length_up_to_many_steps():
    module = SYSTEM.build(SYSTEM.config(width=32, layers=1, heads=1))
    for low in (1024, 4096, 16384):
        measured = growth(module, 32, streaming=False, lengths=(low, 4 * low))
        assert abs(measured.training_flops - 1) < 0.1, low
        assert abs(measured.training_bytes - 1) < 0.1, low
