"""Sums and softmaxes over the steps so far, a chunk of steps at a time.

Within a chunk the steps are compared pair by pair, from chunk to chunk a summary of fixed size is
carried: work and memory grow with the number of steps, and a single step needs the summary only.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

CHUNK = 64
"""Steps compared pair by pair."""
NOTHING = -1e30
"""A logit of what is not there: finite, so that the difference of two of them is a number."""


def running_sums(
    query: Float[Tensor, " #batch #head time key"],
    key: Float[Tensor, " #batch #head time key"],
    value: Float[Tensor, " #batch #head time value"],
    state: Float[Tensor, "batch head key value"],
    *,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, "batch head time value"], Float[Tensor, "batch head key value"]]:
    """Return ``query_t (sum of key_j^T value_j over j up to t)``, and the sum after the last step.

    Args:
        query: what each step reads by.
        key: what each step writes by; zero where it writes nothing.
        value: what each step writes.
        state: the sum before the first step.
        chunk: steps compared pair by pair; changes cost, and results by rounding only.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    with torch.autocast(value.device.type, enabled=False):
        steps = value.shape[2]
        q, k, v = (_chunked(x.to(dtype), min(chunk, steps)) for x in (query, key, value))
        arriving = k.transpose(-1, -2) @ v
        sums = torch.cat([state.to(dtype)[:, :, None], arriving], 2).cumsum(2)
        y = (q @ k.transpose(-1, -2)).tril() @ v + q @ sums[:, :, :-1]
        return y.flatten(2, 3)[:, :, :steps], sums[:, :, -1]


def running_softmax(
    logits: Float[Tensor, "batch head time point"],
    value: Float[Tensor, "batch head time size"],
    read: Float[Tensor, "batch head point size"],
    mass: Float[Tensor, "batch head point"],
    real: Bool[Tensor, "batch time"] | None = None,
    *,
    chunk: int | None = None,
) -> tuple[
    Float[Tensor, "batch head time point size"],
    Float[Tensor, "batch head point size"],
    Float[Tensor, "batch head point"],
]:
    """Return what queries that stay the same read of the values up to each step, and at the end.

    Steps are compared pair by pair within chunks, and so are chunks: hand over about as many chunks
    at a time as a chunk has steps. Every exponent is at most zero, and no step's is taken relative
    to a later one.

    Args:
        logits: of every step for each query.
        value: of every step.
        read: what the queries read of the steps before.
        mass: logarithm of the sum of the exponentials of those steps' logits; `NOTHING` for none.
        real: where there is a step; None for everywhere.
        chunk: steps compared pair by pair; all by default.

    Returns:
        What is read at each step; and ``read`` and ``mass`` after the last.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits, value, read, mass = (x.to(dtype) for x in (logits, value, read, mass))
    with torch.autocast(logits.device.type, enabled=False):
        if real is not None:
            logits = logits.masked_fill(~real[:, None, :, None], NOTHING)
            value = value * real[:, None, :, None]
        steps, points = logits.shape[2:]
        size = min(chunk or steps, steps)
        missing = -steps % size
        each = F.pad(logits, (0, 0, 0, missing), value=NOTHING).unflatten(2, (-1, size)).mT
        value = F.pad(value, (0, 0, 0, missing)).unflatten(2, (-1, size))
        # What stands before each chunk, and after the last: what was carried, and chunks as wholes.
        wholes = torch.cat([mass[:, :, None], each.logsumexp(-1)], 2).mT[..., None, :]
        totals = torch.cat([read[:, :, None], each.softmax(-1) @ value], 2).transpose(2, 3)
        wholes = wholes.masked_fill(~_past(wholes), -torch.inf)
        reads_before, before = wholes.softmax(-1) @ totals, wholes.logsumexp(-1)
        read, mass = reads_before[:, :, :, -1], before[..., -1]
        carried = before[..., :-1].mT[..., None, None].expand(*each.shape, 1)
        each = each[..., None, :]
        weight = torch.cat([carried, each.masked_fill(~_past(each), -torch.inf)], -1).softmax(-1)
        own = weight.flatten(3, 4) @ F.pad(value, (0, 0, 1, 0))
        earlier = reads_before[:, :, :, :-1].transpose(2, 3)[..., None, :]
        reads = weight[..., :1] * earlier + own.unflatten(3, (points, size))
        return reads.transpose(3, 4).flatten(2, 3)[:, :, :steps], read, mass


def _past(x: Tensor) -> Tensor:
    """Return which of the entries of the last axis do not stand after each one."""
    return torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool, device=x.device).tril()


def _chunked(x: Tensor, size: int) -> Tensor:
    """Cut time into chunks; zeros at the end change nothing that is carried."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % size)).unflatten(2, (-1, size))
