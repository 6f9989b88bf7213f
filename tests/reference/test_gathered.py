"""Gathered attention against attention with a written-out mask; outputs and gradients."""

import pytest
import torch
import torch.nn.functional as F

from kt_forecast.nn import gathered as tested
from kt_forecast.nn.gathered import GatheredAttention, block_mask, gathered, steps_of
from kt_forecast.nn.streams import Span

BATCH, HEADS, BLOCK, SIZE = 2, 3, 4, 6
EXACTLY = {"atol": 1e-12, "rtol": 0.0}
TABLE = torch.tensor([[0, -1, -1], [0, 1, -1], [-1, 0, 2], [3, 1, -1], [0, 4, 2]])


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masked(q, k, v, table):
    """Attend with the table written out as a mask of all pairs of steps."""
    steps = q.shape[2]
    mask = torch.zeros(steps, steps, dtype=torch.bool)
    for block, read in enumerate(table.tolist()):
        for other in (number for number in read if number >= 0):
            rows = slice(block * BLOCK, (block + 1) * BLOCK)
            mask[rows, other * BLOCK : (other + 1) * BLOCK] = True
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.tril())


def in_blocks(q, k, v, table):
    place = torch.arange(len(table) * BLOCK).reshape(1, -1, BLOCK)
    q = F.pad(q, (0, 0, 0, len(table) * BLOCK - q.shape[2])).unflatten(2, (-1, BLOCK))
    y = gathered(q, k, v, place, steps_of(table, BLOCK)[None, None], torch.zeros(1).long())
    return y.flatten(2, 3)[:, :, : k.shape[2]]


@pytest.mark.parametrize("at_once", [1, 2**14])
def test_a_table_of_blocks_is_a_mask(at_once, monkeypatch):
    monkeypatch.setattr(tested, "NUMBERS_AT_ONCE", at_once)
    steps = 18
    inputs = [noise(BATCH, HEADS, steps, SIZE, seed=i).requires_grad_() for i in range(3)]
    weight = noise(BATCH, HEADS, steps, SIZE, seed=9)
    results = [f(*inputs, TABLE) for f in (in_blocks, masked)]
    torch.testing.assert_close(*results, **EXACTLY)
    gradients = [torch.autograd.grad((y * weight).sum(), inputs) for y in results]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, **EXACTLY)


def test_a_query_that_reads_nothing_gives_zero_and_a_finite_gradient():
    q, k, v = (noise(1, 1, 4, SIZE, seed=i).requires_grad_() for i in range(3))
    y = in_blocks(q, k, v, torch.tensor([[-1, -1]]))
    assert not y.any()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), (q, k, v)))


def test_a_table_for_each_row_and_head():
    q, k, v = (noise(BATCH, HEADS, 20, SIZE, seed=i) for i in range(3))
    draw = torch.Generator().manual_seed(3)
    tables = torch.stack(
        [torch.randperm(5, generator=draw)[:3] for _ in range(BATCH * HEADS * 5)]
    ).reshape(BATCH, HEADS, 5, 3)
    place = torch.arange(20).reshape(1, 5, BLOCK)
    blocks = q.unflatten(2, (-1, BLOCK))
    got = gathered(blocks, k, v, place, steps_of(tables, BLOCK), torch.zeros(1).long())
    for row in range(BATCH):
        for head in range(HEADS):
            one = [x[row : row + 1, head : head + 1] for x in (q, k, v)]
            wanted = masked(*one, tables[row, head])
            torch.testing.assert_close(got[row, head].flatten(0, 1), wanted[0, 0], **EXACTLY)


def test_blocks_of_flex_attention_are_the_same_mask():
    """The mask that FlexAttention reads, written out only here."""
    steps = 18
    made = block_mask(TABLE[None, None], BLOCK, steps).to_dense()[0, 0].bool()
    wanted = torch.zeros(5, 5, dtype=torch.bool)
    for block, read in enumerate(TABLE.tolist()):
        wanted[block, [number for number in read if number >= 0]] = True
    assert torch.equal(made, wanted)


def test_blocks_of_flex_attention_take_no_memory_of_pairs():
    """A mask of pairs of these steps would be gigabytes."""
    steps, size = 2**17, 128
    number = torch.arange(steps // size)
    table = torch.stack([number - 1, number], -1)[None, None]
    made = block_mask(table, size, steps)
    assert made.kv_num_blocks.sum() == 2 * len(number) - 1
    assert sum(t.numel() for t in made.as_tuple() if torch.is_tensor(t)) < 10 * len(number) ** 2


def drawn(module):
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module.double()


def own_and_before(number):
    return steps_of(torch.stack([number - 1, number], -1), BLOCK)[:, None]


@pytest.mark.parametrize("reach", [None, 2 * BLOCK - 1])
def test_what_is_kept_of_a_stream_gives_what_one_pass_gives(reach):
    module = drawn(GatheredAttention(12, 2, block=BLOCK, table=own_and_before, reach=reach))
    x = noise(3, 19, 12)
    whole = module(x, module.init_state(3), Span.beginning(x))[0]
    before = torch.tensor([2, 9, 5])
    for row in range(3):
        torch.testing.assert_close(
            module(x[row : row + 1], module.init_state(1), Span.beginning(x[:1]))[0][0],
            whole[row],
            **EXACTLY,
        )
    low, high = int(before.min()), int(before.max())
    start = Span(before * 0, before, high, 0, 0, whole=False)
    _, state = module(x[:, :high], module.init_state(3), start)
    index = before[:, None] + torch.arange(8)
    span = Span(before, torch.full_like(before, 8), 8, low, high, whole=True)
    got, _ = module(torch.stack([x[i, index[i]] for i in range(3)]), state, span)
    wanted = torch.stack([whole[i, index[i]] for i in range(3)])
    torch.testing.assert_close(got, wanted, **EXACTLY)


def test_a_table_is_laid_once_for_sequences_no_longer_than_before():
    asked = []

    def table(number):
        asked.append(number.shape[1])
        return own_and_before(number)

    module, x = (
        drawn(GatheredAttention(12, 2, block=BLOCK, table=table, reach=None)),
        noise(2, 19, 12),
    )

    def read(steps):
        some = x[:, :steps]
        return module(some, module.init_state(2), Span.beginning(some, ends=True))[0]

    with torch.inference_mode():
        whole = read(19)
    for steps in (7, 19, 8):
        y = read(steps)
        torch.testing.assert_close(y, whole[:, :steps], **EXACTLY)
        y.sum().backward()
    assert asked == [5]
    x = noise(2, 21, 12)
    read(21)
    assert asked == [5, 6]
