"""Sinkhorn Transformer against properties that only a correct one has (specs 12)."""

import pytest
import torch
import torch.nn.functional as F
from reference.sparse_cases import (
    audited,
    close_under_autocast,
    moved_before_cuts,
    refused_where_it_would_leak,
)

from kt_forecast import zoo
from kt_forecast.audit.cost import growth
from kt_forecast.nn.streams import Span
from kt_forecast.zoo.sinkhorn_transformer import ChoosingAttention, balanced

SYSTEM = zoo.load("sinkhorn_transformer")
STEPS, WIDTH, HEADS, BLOCK = 29, 16, 2, 4


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0.0)


def config(**settings: object):
    given = {"width": WIDTH, "heads": HEADS, "block": BLOCK, "dropout": 0.0}
    return SYSTEM.config(**(given | settings))


def attention(**settings: object):
    torch.manual_seed(4)
    return ChoosingAttention(config(**settings)).double().eval()


def mixer(**settings: object):
    torch.manual_seed(4)
    return SYSTEM.build(config(**settings)).double().eval()


def read(module, x):
    return module(x, module.init_state(len(x)), Span.beginning(x))[0]


def parts(module, x):
    some = (module.query(x), *module.key_value(x).chunk(2, -1))
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in some)
    place = torch.arange(x.shape[1])[None]
    return q, k, v, module.rotary(q, place), module.rotary(k, place)


def merged(module, y):
    return module.out(y.transpose(1, 2).flatten(2))


def full(module, x, *, causally):
    *_, v, q, k = parts(module, x)
    return merged(module, F.scaled_dot_product_attention(q, k, v, is_causal=causally))


def written_out(module, x):
    """Choose and read block by block, head by head, row by row."""
    block, chosen, size = module.block, module.chosen, module.size
    q, k, v, turned_q, turned_k = parts(module, x)
    counts = torch.arange(1, x.shape[1] + 1)[:, None]
    q_mean, k_mean = q.cumsum(2) / counts, k.cumsum(2) / counts
    rows = []
    for row in range(len(x)):
        heads = []
        for head in range(HEADS):
            steps = []
            for begin in range(0, x.shape[1], block):
                own = slice(begin, min(begin + block, x.shape[1]))
                asked = q_mean[row, head, begin]
                logits = [x.new_zeros(())] * chosen + [
                    asked @ k_mean[row, head, at : at + block].sum(0) * size**-0.5
                    for at in range(0, begin, block)
                ]
                left, keys, values = list(range(len(logits))), [], []
                for _ in range(chosen):
                    shares = torch.stack([logits[i] for i in left]).softmax(0)
                    best = int(shares.argmax())
                    number = left.pop(best) - chosen
                    at = slice(number * block, (number + 1) * block)
                    null = number < 0
                    key = module.null[0, head] if null else turned_k[row, head, at]
                    value = module.null[1, head] if null else v[row, head, at]
                    keys.append(shares[best] * key)
                    values.append(shares[best] * value)
                far_keys, far_values = torch.cat(keys), torch.cat(values)
                for t in range(own.start, own.stop):
                    near = slice(begin, begin if module.cut else t + 1)
                    every = torch.cat([far_keys, turned_k[row, head, near]])
                    weight = (every @ turned_q[row, head, t] * size**-0.5).softmax(0)
                    steps.append(weight @ torch.cat([far_values, v[row, head, near]]))
            heads.append(torch.stack(steps))
        rows.append(torch.stack(heads))
    return merged(module, torch.stack(rows))


def slopes(y, module, x):
    return torch.autograd.grad((y * noise(*y.shape, seed=6)).sum(), (x, *module.parameters()))


@pytest.mark.parametrize("settings", [{}, {"chosen": 1}, {"chosen": 3, "block": 5}, {"cut": True}])
def test_blocks_are_chosen_one_after_another(settings):
    module = attention(**settings)
    x = noise(2, STEPS, WIDTH).requires_grad_()
    got, wanted = read(module, x), written_out(module, x)
    same(got, wanted)
    for a, b in zip(slopes(got, module, x), slopes(wanted, module, x), strict=True):
        same(a, b)


def far_nulls(module):
    """Give every query a number that null keys answer with a logit of minus infinity."""
    with torch.no_grad():
        module.rotary.rate.zero_()
        for head in range(HEADS):
            module.query.weight[head * module.size] = 0.0
            module.query.bias[head * module.size] = 1.0
        module.null.zero_()
        module.null[0, ..., 0] = -1e9
    return module


def test_one_block_as_wide_as_the_sequence_is_full_attention():
    module = far_nulls(attention(block=STEPS + 3))
    x = noise(2, STEPS, WIDTH)
    same(read(module, x), full(module, x, causally=True))


def test_all_earlier_blocks_at_full_weight_are_full_attention(monkeypatch):
    blocks = -(-STEPS // BLOCK)
    module = far_nulls(attention(chosen=blocks))
    choose = module.choices

    def at_full_weight(asked, told, number):
        numbers, weights = choose(torch.ones_like(asked), torch.ones_like(told), number)
        for block in range(blocks):
            found = numbers[:, :, block]
            assert ((found >= 0).sum(-1) == block).all(), "every earlier block is chosen once"
        return numbers, torch.ones_like(weights)

    monkeypatch.setattr(module, "choices", at_full_weight)
    x = noise(2, STEPS, WIDTH)
    same(read(module, x), full(module, x, causally=True))


def test_balanced_rows_and_columns_sum_to_one():
    logits = noise(3, 6, 6)
    found = balanced(logits, 3000).exp()
    same(found.sum(-1), torch.ones(3, 6, dtype=torch.float64))
    same(found.sum(-2), torch.ones(3, 6, dtype=torch.float64))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    clear = torch.eye(6)[order] + 0.1 * logits
    gaps = [(balanced(clear / t, 3000).exp() - torch.eye(6)[order]).abs().max() for t in (1, 0.05)]
    assert gaps[1] < 1e-3 < gaps[0]


def test_sorting_that_may_not_look_ahead_is_no_sorting():
    """A triangular matrix whose rows and columns sum to one is the identity."""
    logits = noise(6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), float("-inf"))
    gaps = [(balanced(logits, n).exp() - torch.eye(6)).abs().max() for n in (5, 50, 5000)]
    assert gaps[0] > 3 * gaps[1] > 30 * gaps[2]


def test_one_sorted_block_is_full_attention_that_looks_both_ways():
    module = attention(published=True, block=STEPS)
    x = noise(2, STEPS, WIDTH)
    found = read(module, x)
    same(found, full(module, x, causally=False))


@pytest.mark.parametrize("scale", [1.0, 3.0, 40.0])
@pytest.mark.parametrize("settings", [{}, {"cut": True}, {"published": True}], ids=str)
def test_only_sorted_blocks_see_the_future(settings, scale):
    moved = moved_before_cuts(mixer(**settings), noise(2, STEPS, WIDTH), scale)
    assert moved > 0.01 if settings.get("published") else moved == 0.0


@pytest.mark.parametrize("cut", [False, True])
def test_the_auditor_finds_the_sorted_blocks(cut):
    module = mixer(published=True, layers=1, cut=cut)
    report = audited(module, noise(2, 13, WIDTH))
    assert report.verdict == "leak", report.summary()


def test_the_sorted_blocks_are_refused_where_they_would_leak():
    refused_where_it_would_leak(SYSTEM, config(published=True))


@pytest.mark.parametrize("cut", [False, True])
def test_padding_is_not_sorted_among_steps(cut):
    module, x = mixer(published=True, cut=cut), noise(2, STEPS, WIDTH)
    valid = torch.ones(2, STEPS, dtype=torch.bool)
    valid[1, 18:] = False
    same(module(x, valid=valid)[0][1, :18], module(x[1:, :18])[0][0])


def test_choosing_in_parts_is_choosing_at_once(monkeypatch):
    module = attention(block=2)
    x = noise(2, STEPS, WIDTH).requires_grad_()
    whole = read(module, x)
    wanted = slopes(whole, module, x)
    monkeypatch.setattr("kt_forecast.zoo.sinkhorn_transformer.LOGITS_AT_ONCE", 4 * 2 * HEADS * 15)
    parted = read(module, x)
    same(parted, whole)
    for a, b in zip(slopes(parted, module, x), wanted, strict=True):
        same(a, b)


def test_training_forms_nothing_of_all_pairs():
    largest = 0

    def look(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    module, steps = mixer(block=16), 2048
    x = noise(1, steps, WIDTH).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        module(x)[0].sum().backward()
    assert largest < steps**2 // 8


def test_half_precision_gives_about_the_same_slopes():
    close_under_autocast(mixer(layers=1), noise(2, STEPS, WIDTH))


@pytest.mark.slow
def test_cost_grows_with_the_length_up_to_the_longest():
    """Between the lengths the square of the number of blocks counts little yet."""
    module = SYSTEM.build(config(block=64))
    found = growth(module, WIDTH, streaming=False, lengths=(1024, 65536))
    assert 1 <= found.training_flops < 1.3
    assert abs(found.training_bytes - 1) < 0.1
