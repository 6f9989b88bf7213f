"""Image Transformer against properties that only a correct one has (specs 8)."""

import pytest
import torch
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

SYSTEM = zoo.load("image_transformer")
STEPS, WIDTH, HEADS = 29, 16, 2
ROWS = {"form": "rows", "period": 8, "columns": 4, "rows": 2, "above": 2, "beside": 2}


def mixer(**settings: object):
    return drawn(SYSTEM.build(SYSTEM.config(**{"width": WIDTH, "heads": HEADS} | settings)))


def neighbourhood(steps, *, published=False):
    """Write out, by rows and columns, which steps read which; one pair of steps at a time."""
    period, wide, rows, above, beside = (
        ROWS[key] for key in ("period", "columns", "rows", "above", "beside")
    )
    reads = torch.zeros(steps, steps, dtype=torch.bool)
    for i in range(steps):
        row, column = divmod(i, period)
        top, left = row // rows * rows, column // wide * wide
        for j in range(steps):
            r, c = divmod(j, period)
            if r < top:
                near = top - above <= r and left - beside <= c < left + wide + beside
            elif c < left:
                near = r < top + rows and left - beside <= c
            else:
                near = r < top + rows and c < left + wide and j <= i
            reads[i, j] = near and (published or j <= i)
    return reads


@pytest.mark.parametrize(
    "settings",
    [
        {"block": 32},
        {"block": 16},
        {"form": "rows", "period": 6, "columns": 6, "rows": 2, "above": 9, "beside": 0},
        {"form": "rows", "period": 6, "columns": 6, "rows": 9, "above": 0, "beside": 3},
    ],
    ids=["one block", "two blocks", "rows above", "one rectangle"],
)
def test_blocks_that_hold_everything_are_full_attention(settings):
    module, x = mixer(**settings), noise(2, STEPS, WIDTH).requires_grad_()
    plain = full_attention(module, width=WIDTH, heads=HEADS, layers=2)
    same_with_gradients(lambda x: module(x)[0], lambda x: plain(x)[0], (x,))


def test_a_narrower_rectangle_is_less():
    """What stands right of it in its own earlier rows stays unread."""
    settings = {"form": "rows", "period": 6, "columns": 3, "rows": 9, "above": 0, "beside": 6}
    module, x = mixer(**settings), noise(2, STEPS, WIDTH)
    plain = full_attention(module, width=WIDTH, heads=HEADS, layers=2)
    assert (module(x)[0] - plain(x)[0]).abs().max() > 1e-3


def test_on_one_row_rectangles_are_blocks_of_a_line():
    one = {"form": "rows", "period": 40, "columns": 5, "rows": 1, "above": 0, "beside": 5}
    first, second = mixer(**one), mixer(block=5)
    x = noise(2, STEPS, WIDTH).requires_grad_()
    same_with_gradients(lambda x: first(x)[0], lambda x: second(x)[0], (x,))


def test_a_line_reads_its_block_and_the_one_before():
    reads = slopes(mixer(block=5, layers=1), noise(1, STEPS, WIDTH)) > 0
    block = torch.arange(STEPS) // 5
    assert torch.equal(reads, (block[:, None] - block <= 1).tril())


@pytest.mark.parametrize("published", [False, True])
def test_rectangles_read_what_stands_around_them(published):
    steps = 59
    reads = slopes(mixer(**ROWS, layers=1, published=published), noise(1, steps, WIDTH)) > 0
    assert torch.equal(reads, neighbourhood(steps, published=published))


def test_the_published_order_reads_so_many_later_steps():
    """Both counts stand in the design."""
    reads = neighbourhood(64, published=True)
    assert (int(reads.triu(1).sum()), int(reads.sum())) == (32, 992)


def test_the_auditor_finds_the_published_form():
    report = audited(mixer(**ROWS, published=True, layers=1), noise(2, 19, WIDTH))
    assert report.verdict == "leak", report.summary()


def test_the_published_form_is_refused_where_it_would_leak():
    refused_where_it_would_leak(SYSTEM, SYSTEM.config(width=WIDTH, published=True, **ROWS))


def test_as_published_padding_is_not_read():
    module, x = mixer(**ROWS, published=True), noise(2, 19, WIDTH)
    valid = torch.ones(2, 19, dtype=torch.bool)
    valid[0, 13:] = False
    got = module(x, valid=valid)[0]
    alone = module(x[:1, :13])[0]
    torch.testing.assert_close(got[:1, :13], alone, atol=1e-10, rtol=0.0)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="columns must divide period"):
        SYSTEM.config(form="rows", period=24, columns=7)
    with pytest.raises(ValueError, match="only form='rows' leaks"):
        SYSTEM.config(published=True)


def test_no_tensor_of_all_pairs_of_steps():
    module = SYSTEM.build(SYSTEM.config(width=8, heads=1, layers=1, expansion=1))
    steps = 4096
    x = torch.randn(1, steps, 8, requires_grad=True)
    assert largest_tensor(lambda: module(x)[0].sum().backward()) < steps**2 / 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", [{}, {"form": "rows", "period": 24, "columns": 8}], ids=["line", "rows"]
)
def test_cost_grows_with_the_length_up_to_many_steps(form):
    module = SYSTEM.build(SYSTEM.config(width=32, layers=1, heads=1, **form))
    for low in (1024, 4096, 16384):
        measured = growth(module, 32, streaming=False, lengths=(low, 4 * low))
        assert abs(measured.training_flops - 1) < 0.1, low
        assert abs(measured.training_bytes - 1) < 0.1, low
