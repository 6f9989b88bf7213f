"""Selective scans, as kernels for a GPU; see `kt_forecast.nn.scan`.

Three kernels either way: what each short chunk adds to the state, the states between chunks, and
then all chunks at once. States within a chunk are formed again in the backward pass and never leave
the processor; sums over channels are taken a block of channels at a time and added up in a fixed
order, so that results are the same in every run.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 32
"""Steps whose states one program holds."""
WIDE = 128
"""States of a step that one program holds."""
WARPS = 8
"""Groups of threads that share a program of the backward pass."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def selective_scan(
    u: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Do `kt_forecast.nn.scan.selective_scan` in its inexact form."""
    u, step, write, read = (_rows(x) for x in (u, step, write, read))
    with torch.cuda.device_of(u):
        y, last = _SelectiveScan.apply(u, step, rate.float(), write, read, start.float())  # type: ignore[no-untyped-call]
    return y, last


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


class _SelectiveScan(torch.autograd.Function):
    """Keeps its inputs and the states between chunks."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        u: Tensor,
        step: Tensor,
        rate: Tensor,
        write: Tensor,
        read: Tensor,
        start: Tensor,
    ) -> tuple[Tensor, Tensor]:
        batch, steps, channels = u.shape
        states, chunks = rate.shape[1], triton.cdiv(steps, CHUNK)
        rate = rate.contiguous()
        starts = start.new_empty(batch, chunks + 1, channels, states)
        starts[:, 0] = start
        lasted = start.new_empty(batch, chunks, channels)
        y = u.new_empty(batch, steps, channels, dtype=torch.float32)
        blocks, sizes = _blocks(channels, states)
        shape = (steps, channels, states)
        strides = [s for x in (u, step, write, read) for s in x.stride()[:2]]
        _added[blocks, chunks, batch](
            u, step, rate, write, starts, lasted, *strides[:6], *shape, **sizes
        )
        wide = triton.cdiv(channels * states, WIDE)
        _between[wide, batch](
            starts, lasted, rate, chunks, channels, states, chunk=CHUNK, wide=WIDE, backward=False
        )
        _read[blocks, chunks, batch](
            u, step, rate, write, read, starts, y, *strides, *shape, **sizes
        )
        ctx.save_for_backward(u, step, rate, write, read, starts, lasted)
        return y, starts[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        u, step, rate, write, read, starts, lasted = ctx.saved_tensors
        (batch, steps, channels), states = u.shape, rate.shape[1]
        chunks, grad_y = lasted.shape[1], _rows(grad_y)
        blocks, sizes = _blocks(channels, states)
        shape = (steps, channels, states)
        strides = [s for x in (u, step, write, read, grad_y) for s in x.stride()[:2]]
        # Last to first, as the states are in the forward pass.
        ends = torch.empty_like(starts)
        ends[:, 0] = grad_last
        _wanted[blocks, chunks, batch](
            step, rate, read, grad_y, ends, *strides[2:4], *strides[6:], *shape, **sizes
        )
        _between[triton.cdiv(channels * states, WIDE), batch](
            ends, lasted, rate, chunks, channels, states, chunk=CHUNK, wide=WIDE, backward=True
        )
        of_u, of_step = (u.new_empty(u.shape, dtype=torch.float32) for _ in range(2))
        of_write, of_read = (
            u.new_empty(blocks, batch, steps, states, dtype=torch.float32) for _ in range(2)
        )
        of_rate = torch.empty_like(starts[:, 1:])
        _gradients[blocks, chunks, batch](
            *(u, step, rate, write, read, grad_y, starts, ends),
            *(of_u, of_step, of_rate, of_write, of_read),
            *strides,
            *shape,
            **sizes,
            num_warps=WARPS,
        )
        return (
            of_u.to(u.dtype),
            of_step.to(step.dtype),
            of_rate.sum((0, 1)),
            of_write.sum(0).to(write.dtype),
            of_read.sum(0).to(read.dtype),
            ends[:, -1].clone(),
        )


def _blocks(channels: int, states: int) -> tuple[int, dict[str, Any]]:
    """Return how many programs share the channels, and what kernels are compiled for."""
    held = triton.next_power_of_2(states)
    wide = min(max(1, WIDE // held), triton.next_power_of_2(channels))
    return triton.cdiv(channels, wide), {"chunk": CHUNK, "wide": wide, "held": held}


@triton.jit
@no_type_check
def _tile(base, rows, columns, of_row, most_rows, most_columns):
    """Return numbers at all pairs of rows and columns, zero outside."""
    inside = (rows[:, None] >= 0) & (rows[:, None] < most_rows) & (columns[None, :] < most_columns)
    place = rows.to(tl.int64)[:, None] * of_row + columns[None, :]
    return tl.load(base + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def _put(base, tile, rows, columns, of_row, most_rows, most_columns):
    """Store a tile where it is inside."""
    inside = (rows[:, None] < most_rows) & (columns[None, :] < most_columns)
    tl.store(base + rows.to(tl.int64)[:, None] * of_row + columns[None, :], tile, mask=inside)


@triton.jit
@no_type_check
def _then(factor, term, next_factor, next_term):
    """Return the factor and the term of two steps of a recurrence together."""
    return factor * next_factor, next_factor * term + next_term


@triton.jit
@no_type_check
def _added(
    u, step, rate, write, starts, lasted,
    u_batch, u_step, s_batch, s_step, w_batch, w_step,
    steps, channels, states,
    chunk: tl.constexpr, wide: tl.constexpr, held: tl.constexpr,
):  # fmt: skip
    """Store what each chunk adds to the state after it, and how long it lasts."""
    channel = tl.program_id(0) * wide + tl.arange(0, wide)
    c, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    time, state = c * chunk + tl.arange(0, chunk), tl.arange(0, held)
    s_ = _tile(step + batch * s_batch, time, channel, s_step, steps, channels)
    u_ = _tile(u + batch * u_batch, time, channel, u_step, steps, channels)
    w_ = _tile(write + batch * w_batch, time, state, w_step, steps, states)
    r_ = _tile(rate, channel, state, states, channels, states)
    total = tl.sum(s_, 0)
    left = total[None, :] - tl.cumsum(s_, 0)
    share = tl.exp(left[:, :, None] * r_[None, :, :])
    added = tl.sum(share * (s_ * u_)[:, :, None] * w_[:, None, :], 0)
    chunks = tl.cdiv(steps, chunk)
    starts += (batch * (chunks + 1) + c + 1) * channels * states
    _put(starts, added, channel, state, states, channels, states)
    lasted += (batch * chunks + c) * channels
    tl.store(lasted + channel, total, mask=channel < channels)


@triton.jit
@no_type_check
def _wanted(
    step, rate, read, grad, ends,
    s_batch, s_step, r_batch, r_step, o_batch, o_step,
    steps, channels, states,
    chunk: tl.constexpr, wide: tl.constexpr, held: tl.constexpr,
):  # fmt: skip
    """Store what a state is worth before each chunk for what that chunk reads, last chunk first."""
    channel = tl.program_id(0) * wide + tl.arange(0, wide)
    c, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    time, state = c * chunk + tl.arange(0, chunk), tl.arange(0, held)
    s_ = _tile(step + batch * s_batch, time, channel, s_step, steps, channels)
    o_ = _tile(grad + batch * o_batch, time, channel, o_step, steps, channels)
    r_ = _tile(read + batch * r_batch, time, state, r_step, steps, states)
    rate_ = _tile(rate, channel, state, states, channels, states)
    share = tl.exp(tl.cumsum(s_, 0)[:, :, None] * rate_[None, :, :])
    wanted = tl.sum(share * o_[:, :, None] * r_[:, None, :], 0)
    chunks = tl.cdiv(steps, chunk)
    ends += (batch * (chunks + 1) + chunks - c) * channels * states
    _put(ends, wanted, channel, state, states, channels, states)


@triton.jit
@no_type_check
def _between(
    found, lasted, rate, chunks, channels, states,
    chunk: tl.constexpr, wide: tl.constexpr, backward: tl.constexpr,
):  # fmt: skip
    """Turn what chunks add into the states between them, in place; the first state is there."""
    place = tl.program_id(0) * wide + tl.arange(0, wide)
    batch = tl.program_id(1).to(tl.int64)
    most = channels * states
    channel = place // states
    rate_ = tl.load(rate + place, mask=place < most, other=0.0)
    found += batch * (chunks + 1) * most
    lasted += batch * chunks * channels
    h = tl.load(found + place, mask=place < most, other=0.0)
    found += most
    for low in range(0, chunks, chunk):
        c = low + tl.arange(0, chunk)
        inside = (c[:, None] < chunks) & (place[None, :] < most)
        of = chunks - 1 - c if backward else c
        long = tl.load(lasted + of[:, None] * channels + channel[None, :], mask=inside, other=0.0)
        at = found + c.to(tl.int64)[:, None] * most + place[None, :]
        term = tl.load(at, mask=inside, other=0.0)
        factor, term = tl.associative_scan((tl.exp(long * rate_[None, :]), term), 0, _then)
        term += factor * h[None, :]
        tl.store(at, term, mask=inside)
        h = tl.sum(tl.where(tl.arange(0, chunk)[:, None] == chunk - 1, term, 0.0), 0)


@triton.jit
@no_type_check
def _read(
    u, step, rate, write, read, starts, y,
    u_batch, u_step, s_batch, s_step, w_batch, w_step, r_batch, r_step,
    steps, channels, states,
    chunk: tl.constexpr, wide: tl.constexpr, held: tl.constexpr,
):  # fmt: skip
    """Form the states of a chunk and read them."""
    channel = tl.program_id(0) * wide + tl.arange(0, wide)
    c, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    time, state = c * chunk + tl.arange(0, chunk), tl.arange(0, held)
    s_ = _tile(step + batch * s_batch, time, channel, s_step, steps, channels)
    u_ = _tile(u + batch * u_batch, time, channel, u_step, steps, channels)
    w_ = _tile(write + batch * w_batch, time, state, w_step, steps, states)
    r_ = _tile(read + batch * r_batch, time, state, r_step, steps, states)
    rate_ = _tile(rate, channel, state, states, channels, states)
    chunks = tl.cdiv(steps, chunk)
    starts += (batch * (chunks + 1) + c) * channels * states
    h0 = _tile(starts, channel, state, states, channels, states)
    factor = tl.exp(s_[:, :, None] * rate_[None, :, :])
    term = (s_ * u_)[:, :, None] * w_[:, None, :]
    factor, h = tl.associative_scan((factor, term), 0, _then)
    h += factor * h0[None, :, :]
    found = tl.sum(h * r_[:, None, :], 2)
    _put(y + batch * steps * channels, found, time, channel, channels, steps, channels)


@triton.jit
@no_type_check
def _gradients(
    u, step, rate, write, read, grad, starts, ends, of_u, of_step, of_rate, of_write, of_read,
    u_batch, u_step, s_batch, s_step, w_batch, w_step, r_batch, r_step, o_batch, o_step,
    steps, channels, states,
    chunk: tl.constexpr, wide: tl.constexpr, held: tl.constexpr,
):  # fmt: skip
    """Form the gradients of a chunk from the state before it and what that after it is worth."""
    block = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(0) * wide + tl.arange(0, wide)
    c, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    batches = tl.num_programs(2)
    inner, state = tl.arange(0, chunk), tl.arange(0, held)
    time = c * chunk + inner
    s_ = _tile(step + batch * s_batch, time, channel, s_step, steps, channels)
    u_ = _tile(u + batch * u_batch, time, channel, u_step, steps, channels)
    o_ = _tile(grad + batch * o_batch, time, channel, o_step, steps, channels)
    w_ = _tile(write + batch * w_batch, time, state, w_step, steps, states)
    r_ = _tile(read + batch * r_batch, time, state, r_step, steps, states)
    rate_ = _tile(rate, channel, state, states, channels, states)
    chunks = tl.cdiv(steps, chunk)
    h0 = starts + (batch * (chunks + 1) + c) * channels * states
    h0 = _tile(h0, channel, state, states, channels, states)
    after = ends + (batch * (chunks + 1) + chunks - 1 - c) * channels * states
    after = _tile(after, channel, state, states, channels, states)
    factor = tl.exp(s_[:, :, None] * rate_[None, :, :])
    enters = (s_ * u_)[:, :, None] * w_[:, None, :]
    factor, h = tl.associative_scan((factor, enters), 0, _then)
    h += factor * h0[None, :, :]
    by_read = tl.sum(h * o_[:, :, None], 1)
    # A state counts for what is read of it and for its share in the one after it.
    following = tl.where(inner + 1 < chunk, time + 1, steps)
    next_step = _tile(step + batch * s_batch, following, channel, s_step, steps, channels)
    share = tl.exp(next_step[:, :, None] * rate_[None, :, :])
    share, worth = tl.associative_scan(
        (share, o_[:, :, None] * r_[:, None, :]), 0, _then, reverse=True
    )
    worth += share * after[None, :, :]
    carried = worth * (h - enters)
    by_write = tl.sum(worth * (s_ * u_)[:, :, None], 1)
    entered = tl.sum(worth * w_[:, None, :], 2)
    by_step = tl.sum(carried * rate_[None, :, :], 2) + entered * u_
    by_rate = tl.sum(carried * s_[:, :, None], 0)
    at = batch * steps * channels
    _put(of_u + at, entered * s_, time, channel, channels, steps, channels)
    _put(of_step + at, by_step, time, channel, channels, steps, channels)
    at = (batch * chunks + c) * channels * states
    _put(of_rate + at, by_rate, channel, state, states, channels, states)
    at = (block * batches + batch) * steps * states
    _put(of_write + at, by_write, time, state, states, steps, states)
    _put(of_read + at, by_read, time, state, states, steps, states)
