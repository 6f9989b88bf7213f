"""Sums of past products that fade, as kernels for a GPU; see `kt_forecast.nn.decayed`.

A first kernel carries the matrix from chunk to chunk and keeps it at the beginning of each, a
second lets all chunks read at once. The backward pass carries what a matrix is worth from chunk to
chunk, last to first, and then forms the gradients of all chunks at once. Nothing larger than a
chunk's pairs of steps is ever there, and no two programs add to the same number, so that results
are the same in every run.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 32
"""Steps compared pair by pair; so few that no product is one of warp groups, which some releases of
Triton compile wrongly for Hopper where a tile is masked."""
LEAST = 16
"""The smallest side of a product of matrices."""
MOST_VALUES = {"carry": 32, "read": 32, "gradients": 32}
"""Values of a head that one program handles at a time."""
MANY_KEYS = 64
"""From as many keys a head on, twice as many threads form the gradients."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def decayed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    state: Tensor,
    *,
    rough: bool = False,
) -> tuple[Tensor, Tensor]:
    """Do `kt_forecast.nn.decayed.decayed` without its fading.

    Args:
        query: as there.
        key: as there.
        value: as there.
        log_decay: as there.
        state: as there.
        rough: let products of matrices be rounded to fewer digits than single precision has.
    """
    batch, heads, steps, _ = value.shape
    shared = [x.expand(batch, heads, steps, -1) for x in (query, key)]
    decay = log_decay.expand(batch, heads, steps)
    with torch.cuda.device_of(value):
        y, last = _Decayed.apply(*shared, value, decay, state.float(), rough)  # type: ignore[no-untyped-call]
    return y, last


class _Decayed(torch.autograd.Function):
    """Keeps its inputs and the matrices between chunks."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        state: Tensor,
        rough: bool,  # noqa: FBT001
    ) -> tuple[Tensor, Tensor]:
        batch, heads, steps, values = v.shape
        chunks, rows, keys = triton.cdiv(steps, CHUNK), batch * heads, k.shape[3]
        starts = v.new_empty(batch, heads, chunks + 1, *state.shape[2:], dtype=torch.float32)
        y = _beside(v, values)
        sizes = _sizes("carry", keys, values, rough=rough)
        _carry[triton.cdiv(values, sizes["values"]), rows](
            *(k, v, g, state.contiguous(), starts),
            *(*k.stride(), *v.stride(), *g.stride()),
            *(steps, heads, keys, values),
            **sizes,
        )
        sizes = _sizes("read", keys, values, rough=rough)
        _read[triton.cdiv(values, sizes["values"]), chunks, rows](
            *(q, k, v, g, starts, y),
            *(s for x in (q, k, v, y, g) for s in x.stride()),
            *(steps, heads, keys, values),
            **sizes,
        )
        ctx.rough = rough
        ctx.save_for_backward(q, k, v, g, starts)
        return y, starts[:, :, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        q, k, v, g, starts = ctx.saved_tensors
        (batch, heads, steps, values), keys = v.shape, k.shape[3]
        sizes = _sizes("carry", keys, values, rough=ctx.rough)
        chunks, rows = starts.shape[2] - 1, batch * heads
        ends, of_state = torch.empty_like(starts[:, :, 1:]), torch.empty_like(starts[:, :, 0])
        _carry_back[triton.cdiv(values, sizes["values"]), rows](
            *(q, grad_y, g, grad_last.contiguous(), ends, of_state),
            *(*q.stride(), *grad_y.stride(), *g.stride()),
            *(steps, heads, keys, values),
            **sizes,
        )
        of_q, of_k, of_v = _beside(v, keys), _beside(v, keys), _beside(v, values)
        of_g = g.new_empty(batch, heads, steps, dtype=torch.float32)
        given = (q, k, v, g)
        _gradients[chunks, rows](
            *(q, k, v, g, starts, ends, grad_y, of_q, of_k, of_v, of_g),
            *(s for x in (q, k, v, grad_y, of_q, of_k, of_v, g) for s in x.stride()),
            *(steps, heads, keys, values),
            with_decay=ctx.needs_input_grad[3],
            **_sizes("gradients", keys, values, rough=ctx.rough),
        )
        found = [x.to(like.dtype) for x, like in zip((of_q, of_k, of_v, of_g), given, strict=True)]
        return *found, of_state, None


def _beside(like: Tensor, size: int) -> Tensor:
    """Return room for vectors of all heads, those of a step side by side."""
    batch, heads, steps, _ = like.shape
    return like.new_empty(batch, steps, heads, size, dtype=torch.float32).transpose(1, 2)


def _sizes(kernel: str, keys: int, values: int, *, rough: bool) -> dict[str, Any]:
    """Return what a kernel is compiled for."""
    values = max(LEAST, triton.next_power_of_2(values))
    many = keys >= MANY_KEYS and kernel == "gradients"
    return {
        "chunk": CHUNK,
        "keys": max(LEAST, triton.next_power_of_2(keys)),
        "values": min(values, MOST_VALUES[kernel]),
        "precision": "tf32" if rough else "ieee",
        "num_warps": 8 if many else 4,
        "num_stages": 1 if kernel == "gradients" else 2,
    }


@triton.jit
@no_type_check
def _tile(base, rows, columns, of_row, of_column, most_rows, most_columns):
    """Return numbers at all pairs of rows and columns, zero outside."""
    inside = (rows[:, None] < most_rows) & (columns[None, :] < most_columns)
    place = rows.to(tl.int64)[:, None] * of_row + columns[None, :] * of_column
    return tl.load(base + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def _put(base, tile, rows, columns, of_row, of_column, most_rows, most_columns):
    """Store a tile where it is inside."""
    inside = (rows[:, None] < most_rows) & (columns[None, :] < most_columns)
    place = rows.to(tl.int64)[:, None] * of_row + columns[None, :] * of_column
    tl.store(base + place, tile, mask=inside)


@triton.jit
@no_type_check
def _carry(
    k, v, g, state, starts,
    k_batch, k_head, k_step, k_size, v_batch, v_head, v_step, v_size, g_batch, g_head, g_step,
    steps, heads, key_size, value_size,
    chunk: tl.constexpr, keys: tl.constexpr, values: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Keep the matrix before each chunk, and the one after the last."""
    row = tl.program_id(1).to(tl.int64)
    batch, head = row // heads, row % heads
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    g += batch * g_batch + head * g_head
    key = tl.arange(0, keys)
    value = tl.program_id(0) * values + tl.arange(0, values)
    matrix = key_size * value_size
    chunks = tl.cdiv(steps, chunk)
    s = _tile(state + row * matrix, value, key, 1, value_size, value_size, key_size)
    starts += row * (chunks + 1) * matrix
    _put(starts, s, value, key, 1, value_size, value_size, key_size)
    for c in range(chunks):
        step = c * chunk + tl.arange(0, chunk)
        decay = tl.load(g + step.to(tl.int64) * g_step, mask=step < steps, other=0.0)
        decay = decay.to(tl.float32)
        total = tl.sum(decay, 0)
        to_end = tl.exp(total - tl.cumsum(decay, 0))
        k_ = _tile(k, step, key, k_step, k_size, steps, key_size) * to_end[:, None]
        v_ = _tile(v, value, step, v_size, v_step, value_size, steps)
        s = s * tl.exp(total) + tl.dot(v_, k_, input_precision=precision)
        starts += matrix
        _put(starts, s, value, key, 1, value_size, value_size, key_size)


@triton.jit
@no_type_check
def _carry_back(
    q, grad, g, last, ends, first,
    q_batch, q_head, q_step, q_size, o_batch, o_head, o_step, o_size, g_batch, g_head, g_step,
    steps, heads, key_size, value_size,
    chunk: tl.constexpr, keys: tl.constexpr, values: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Keep what the matrix after each chunk is worth, and that before the first."""
    row = tl.program_id(1).to(tl.int64)
    batch, head = row // heads, row % heads
    q += batch * q_batch + head * q_head
    grad += batch * o_batch + head * o_head
    g += batch * g_batch + head * g_head
    key = tl.arange(0, keys)
    value = tl.program_id(0) * values + tl.arange(0, values)
    matrix = key_size * value_size
    chunks = tl.cdiv(steps, chunk)
    s = _tile(last + row * matrix, value, key, 1, value_size, value_size, key_size)
    ends += (row * chunks + chunks - 1) * matrix
    for back in range(chunks):
        _put(ends, s, value, key, 1, value_size, value_size, key_size)
        step = (chunks - 1 - back) * chunk + tl.arange(0, chunk)
        decay = tl.load(g + step.to(tl.int64) * g_step, mask=step < steps, other=0.0)
        decay = decay.to(tl.float32)
        from_start = tl.exp(tl.cumsum(decay, 0))
        q_ = _tile(q, step, key, q_step, q_size, steps, key_size) * from_start[:, None]
        o_ = _tile(grad, value, step, o_size, o_step, value_size, steps)
        s = s * tl.exp(tl.sum(decay, 0)) + tl.dot(o_, q_, input_precision=precision)
        ends -= matrix
    _put(first + row * matrix, s, value, key, 1, value_size, value_size, key_size)


@triton.jit
@no_type_check
def _read(
    q, k, v, g, starts, y,
    q_batch, q_head, q_step, q_size, k_batch, k_head, k_step, k_size,
    v_batch, v_head, v_step, v_size, y_batch, y_head, y_step, y_size, g_batch, g_head, g_step,
    steps, heads, key_size, value_size,
    chunk: tl.constexpr, keys: tl.constexpr, values: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Let the steps of a chunk read its matrix and each other."""
    c, row = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    batch, head = row // heads, row % heads
    step = c * chunk + tl.arange(0, chunk)
    key = tl.arange(0, keys)
    value = tl.program_id(0) * values + tl.arange(0, values)
    g += batch * g_batch + head * g_head
    total = tl.cumsum(tl.load(g + step * g_step, mask=step < steps, other=0.0).to(tl.float32), 0)
    place = tl.arange(0, chunk)
    between = tl.where(place[:, None] >= place[None, :], total[:, None] - total[None, :], -1e30)
    q_ = _tile(q + batch * q_batch + head * q_head, step, key, q_step, q_size, steps, key_size)
    k_ = _tile(k + batch * k_batch + head * k_head, step, key, k_step, k_size, steps, key_size)
    v += batch * v_batch + head * v_head
    v_ = _tile(v, step, value, v_step, v_size, steps, value_size)
    starts += (row * (tl.cdiv(steps, chunk) + 1) + c) * key_size * value_size
    s = _tile(starts, key, value, value_size, 1, key_size, value_size)
    near = tl.dot(q_, tl.trans(k_), input_precision=precision) * tl.exp(between)
    found = tl.dot(near, v_, input_precision=precision)
    found += tl.dot(q_ * tl.exp(total)[:, None], s, input_precision=precision)
    y += batch * y_batch + head * y_head
    _put(y, found, step, value, y_step, y_size, steps, value_size)


@triton.jit
@no_type_check
def _gradients(
    q, k, v, g, starts, ends, grad, of_q, of_k, of_v, of_g,
    q_batch, q_head, q_step, q_size, k_batch, k_head, k_step, k_size,
    v_batch, v_head, v_step, v_size, o_batch, o_head, o_step, o_size,
    dq_batch, dq_head, dq_step, dq_size, dk_batch, dk_head, dk_step, dk_size,
    dv_batch, dv_head, dv_step, dv_size, g_batch, g_head, g_step,
    steps, heads, key_size, value_size,
    with_decay: tl.constexpr,
    chunk: tl.constexpr, keys: tl.constexpr, values: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Form the gradients of a chunk's steps from its matrix and what the one after it is worth."""
    c, row = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    batch, head = row // heads, row % heads
    step = c * chunk + tl.arange(0, chunk)
    key = tl.arange(0, keys)
    g += batch * g_batch + head * g_head
    decay = tl.load(g + step * g_step, mask=step < steps, other=0.0).to(tl.float32)
    total = tl.cumsum(decay, 0)
    from_start, to_end = tl.exp(total), tl.exp(tl.sum(decay, 0) - total)
    place = tl.arange(0, chunk)
    between = tl.where(place[:, None] >= place[None, :], total[:, None] - total[None, :], -1e30)
    between = tl.exp(between)
    after = tl.where(place[:, None] <= place[None, :], total[None, :] - total[:, None], -1e30)
    after = tl.exp(after)
    q_ = _tile(q + batch * q_batch + head * q_head, step, key, q_step, q_size, steps, key_size)
    k_ = _tile(k + batch * k_batch + head * k_head, step, key, k_step, k_size, steps, key_size)
    # Each matrix of pairs is formed in both orders: from registers it could not be turned cheaply.
    near = tl.dot(k_, tl.trans(q_), input_precision=precision) * after
    written = k_ * to_end[:, None]
    v += batch * v_batch + head * v_head
    grad += batch * o_batch + head * o_head
    of_v += batch * dv_batch + head * dv_head
    matrix = key_size * value_size
    chunks = tl.cdiv(steps, chunk)
    starts += (row * (chunks + 1) + c) * matrix
    ends += (row * chunks + c) * matrix
    of_near = tl.zeros((chunk, chunk), dtype=tl.float32)
    turned = tl.zeros((chunk, chunk), dtype=tl.float32)
    by_q = tl.zeros((chunk, keys), dtype=tl.float32)
    by_k = tl.zeros((chunk, keys), dtype=tl.float32)
    later = 0.0
    for block in range(tl.cdiv(value_size, values)):
        value = block * values + tl.arange(0, values)
        v_ = _tile(v, step, value, v_step, v_size, steps, value_size)
        o_ = _tile(grad, step, value, o_step, o_size, steps, value_size)
        s = _tile(starts, key, value, value_size, 1, key_size, value_size)
        worth = _tile(ends, key, value, value_size, 1, key_size, value_size)
        if with_decay:
            end = _tile(starts + matrix, key, value, value_size, 1, key_size, value_size)
            later += tl.sum(tl.sum(end * worth, 1), 0)
        of_near += tl.dot(o_, tl.trans(v_), input_precision=precision)
        turned += tl.dot(v_, tl.trans(o_), input_precision=precision)
        by_q += tl.dot(o_, tl.trans(s), input_precision=precision)
        by_k += tl.dot(v_, tl.trans(worth), input_precision=precision)
        by_v = tl.dot(near, o_, input_precision=precision)
        by_v += tl.dot(written, worth, input_precision=precision)
        _put(of_v, by_v, step, value, dv_step, dv_size, steps, value_size)
    of_near *= between
    turned *= after
    by_q = by_q * from_start[:, None] + tl.dot(of_near, k_, input_precision=precision)
    by_k = by_k * to_end[:, None] + tl.dot(turned, q_, input_precision=precision)
    of_q += batch * dq_batch + head * dq_head
    of_k += batch * dk_batch + head * dk_head
    _put(of_q, by_q, step, key, dq_step, dq_size, steps, key_size)
    _put(of_k, by_k, step, key, dk_step, dk_size, steps, key_size)
    if with_decay:
        # What a step's decay is worth: all that is read at it or later of what was written before.
        change = tl.sum(by_q * q_, 1) - tl.sum(by_k * k_, 1)
        change = tl.sum(change, 0) - tl.cumsum(change, 0) + change + later
        tl.store(of_g + row * steps + step, change, mask=step < steps)
