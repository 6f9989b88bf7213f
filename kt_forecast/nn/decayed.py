"""Sums of past products that fade: linear attention with decay, a chunk of steps at a time.

What a step may read is one matrix a head, ``S_t = a_t S_{t-1} + k_t^T v_t``, and it reads
``y_t = q_t S_t``. Retention, the dual form of selective state spaces and gated linear attention are
this sum with different decays. Within a chunk the steps are compared pair by pair, from chunk to
chunk the matrix is carried, so that work and memory grow with the number of steps.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from kt_forecast.nn import kernels

CHUNK = 64
"""Steps compared pair by pair."""


def decayed(
    query: Float[Tensor, " batch #head time key"],
    key: Float[Tensor, " batch #head time key"],
    value: Float[Tensor, "batch head time value"],
    log_decay: Float[Tensor, "#batch #head time"],
    state: Float[Tensor, "batch head key value"],
    *,
    fading: Float[Tensor, "#batch #head time key"] | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, "batch head time value"], Float[Tensor, "batch head key value"]]:
    """Return what every step reads, and the matrix after the last step.

    Args:
        query: what each step reads by.
        key: what each step writes by; zero where it writes nothing.
        value: what each step writes.
        log_decay: logarithm of what is left of the matrix when a step arrives; zero at padding.
        state: the matrix before the first step.
        fading: the same for each number of the key by itself, on top; its sum over a chunk is
            exponentiated both ways, so it must be small.
        chunk: steps compared pair by pair; changes cost, and results by rounding only.
    """
    fast = None if fading is not None else kernels.for_decayed(key, value)
    if fast is not None:
        return fast(query, key, value, log_decay, state)
    dtype = torch.promote_types(value.dtype, torch.float32)
    with torch.autocast(value.device.type, enabled=False):
        if value.shape[2] == 1:
            left = log_decay.to(dtype)[..., None]
            left = (left if fading is None else left + fading.to(dtype)).exp()
            state = left.mT * state.to(dtype) + key.to(dtype).mT @ value.to(dtype)
            return query.to(dtype) @ state, state
        steps, size = value.shape[2], min(chunk, value.shape[2])
        q, k, v = (_chunked(x.to(dtype), size) for x in (query, key, value))
        g = _chunked(log_decay.to(dtype)[..., None], size)[..., 0]
        carried = g.sum(-1)[..., None]
        from_start = q * g.cumsum(-1).exp()[..., None]
        between = left_between(g)
        to_end = k * between[..., -1, :, None]
        if fading is not None:
            f = _chunked(fading.to(dtype), size).cumsum(3)
            q, k, from_start = q * f.exp(), k * (-f).exp(), from_start * f.exp()
            to_end = to_end * (f[..., -1:, :] - f).exp()
            carried = carried + f[..., -1, :]
        arriving = to_end.transpose(-1, -2) @ v
        starts, state = _carried(arriving, carried.exp(), state.to(dtype))
        y = ((q @ k.transpose(-1, -2)) * between) @ v + from_start @ starts
        return y.flatten(2, 3)[:, :, :steps], state


def _chunked(x: Tensor, size: int) -> Tensor:
    """Cut time into chunks; zeros at the end change nothing that is carried."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % size)).unflatten(2, (-1, size))


def left_between(log_decay: Float[Tensor, "*batch chunk"]) -> Float[Tensor, "*batch chunk chunk"]:
    """Return what is left at each step (row) of what there was after each one up to it (column).

    Summed pair by pair: a difference of two running sums would lose the small ones to the large.
    """
    size = log_decay.shape[-1]
    steps = log_decay[..., None].expand(*log_decay.shape, size)
    return steps.tril(-1).cumsum(-2).exp().tril()


def _carried(arriving: Tensor, left: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix before each chunk, and the one after the last.

    Chunk by chunk: one product over all pairs of chunks would grow with their square.
    """
    starts = []
    left = left.expand(*left.shape[:2], arriving.shape[2], left.shape[-1])
    for part, share in zip(arriving.unbind(2), left[..., None].unbind(2), strict=True):
        starts.append(state)
        state = share * state + part
    return torch.stack(starts, 2), state
