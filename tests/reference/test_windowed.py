"""Attention in blocks against attention with a written mask: outputs and gradients (specs 0.6)."""

import pytest
import torch

from kt_forecast.nn.windowed import Beside, in_phase, phases, weighed, windowed

ROWS, HEADS, SIZE = 2, 3, 4


def noise(*shape, seed=1):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=drawn, dtype=torch.float64).requires_grad_()


def heads(steps, back=0):
    shape = (ROWS, HEADS, back + steps, SIZE)
    return noise(ROWS, HEADS, steps, SIZE, seed=2), noise(*shape, seed=3), noise(*shape, seed=4)


def band(steps, back, window):
    ago = torch.arange(steps)[:, None] + back - torch.arange(back + steps)
    return (ago >= 0) & (ago < window), ago


def dense(query, key, value, mask, added=0.0):
    logits = query @ key.mT * SIZE**-0.5 + added
    return logits.masked_fill(~mask, -torch.inf).softmax(-1) @ value


def agree(got, wanted, *leaves):
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0.0)
    weight = noise(*got.shape, seed=9).detach()
    slopes = (
        torch.autograd.grad((y * weight).sum(), leaves, retain_graph=True) for y in (got, wanted)
    )
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0.0)
        assert one.abs().max() > 0


@pytest.mark.parametrize("steps", [1, 6, 7, 24, 29])
@pytest.mark.parametrize("window", [1, 2, 7, 24, 40])
def test_blocks_equal_a_band(window, steps):
    q, k, v = heads(steps)
    wanted = dense(q, k, v, band(steps, 0, window)[0])
    if window > 1:
        agree(windowed(q, k, v, window), wanted, *((q, k, v) if steps > 1 else (v,)))
        agree(weighed(q, k, v, window), wanted, *((q, k, v) if steps > 1 else (v,)))
    else:
        torch.testing.assert_close(windowed(q, k, v, 1), v)


@pytest.mark.parametrize("steps", [1, 3, 17])
@pytest.mark.parametrize("window", [1, 5, 9])
def test_kept_slots_are_read_where_they_hold_a_step(window, steps):
    back = window - 1
    q, k, v = heads(steps, back)
    before = torch.tensor([2, 50])
    there = before[:, None] + torch.arange(back + steps) - back >= 0
    mask = band(steps, back, window)[0] & there[:, None, None]
    leaves = (q, k, v) if window > 1 else (v,)
    agree(windowed(q, k, v, window, before=before), dense(q, k, v, mask), *leaves)
    agree(weighed(q, k, v, window, before=before), dense(q, k, v, mask), *leaves)


@pytest.mark.parametrize("each", [1, HEADS], ids=["shared", "each head"])
def test_steps_read_their_own_group_only(each):
    q, k, v = heads(19, 4)
    group = torch.randint(0, 2, (ROWS, each, 23), generator=torch.Generator().manual_seed(0))
    mask = band(19, 4, 5)[0] & (group[:, :, 4:, None] == group[:, :, None])
    agree(windowed(q, k, v, 5, group=group), dense(q, k, v, mask), q, k, v)


@pytest.mark.parametrize("rows", [2, 9])
@pytest.mark.parametrize("some", [1, ROWS])
@pytest.mark.parametrize("masked", [False, True])
def test_further_slots_join_the_softmax(rows, some, masked):
    steps, window = 19, 5
    q, k, v = heads(steps, window - 1)
    row_key, row_value = noise(some, HEADS, rows, SIZE, seed=5), noise(some, HEADS, rows, SIZE)
    seen = torch.ones(1, 1, steps, rows, dtype=torch.bool)
    if masked:
        seen = (torch.arange(steps)[:, None] >= 2 * torch.arange(rows))[None, None]
    seen_near = band(steps, window - 1, window)[0].expand(1, 1, -1, -1)
    pairs = ((row_key, k), (row_value, v))
    both = [torch.cat([row.expand(ROWS, -1, -1, -1), near], 2) for row, near in pairs]
    wanted = dense(q, *both, torch.cat([seen, seen_near], -1))
    beside = Beside(row_key, row_value, seen if masked else None)
    agree(windowed(q, k, v, window, beside=beside), wanted, q, k, v, row_key, row_value)
    if not masked:
        logits = q @ row_key.mT * SIZE**-0.5
        got = weighed(q, k, v, window, beside=(logits, row_value))
        agree(got, wanted, q, k, v, row_key, row_value)


@pytest.mark.parametrize("steps", [3, 19])
def test_what_is_added_by_distance_is_learned(steps):
    window = 5
    q, k, v = heads(steps, window - 1)
    bias = noise(HEADS, window, seed=7)
    mask, ago = band(steps, window - 1, window)
    wanted = dense(q, k, v, mask, bias[:, ago.clamp(0, window - 1)])
    agree(weighed(q, k, v, window, bias=bias), wanted, q, k, v, bias)


def test_phases_come_back():
    x = noise(ROWS, HEADS, 11, SIZE)
    assert phases(x, 4).shape == (ROWS * 4, HEADS, 3, SIZE)
    assert torch.equal(phases(x, 4)[5], torch.stack([x[1, :, i] for i in (1, 5, 9)], 1))
    assert torch.equal(in_phase(phases(x, 4), 4, 11), x)


def test_what_is_kept_for_the_backward_pass_grows_with_the_length_only():
    def kept(steps):
        sizes = {}

        def keep(x):
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            windowed(*heads(steps), 16)
        return sum(sizes.values())

    assert kept(2048) < 2.1 * kept(1024)
    assert kept(2048) < 6 * heads(2048)[0].nbytes
