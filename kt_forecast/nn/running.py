"""Sums and softmaxes over the steps so far, a chunk of steps at a time.

Within a chunk the steps are compared pair by pair, from chunk to chunk a summary of fixed size is
carried: work and memory grow with the number of steps, and a single step needs the summary only.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CHUNK = 64
"""Steps compared pair by pair."""
COMPARED = 64
"""Chunks of a softmax compared pair by pair."""
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


def softmax_before(
    logits: Float[Tensor, "batch head chunk size point"],
    value: Float[Tensor, "batch head chunk size value"],
    read: Float[Tensor, "batch head point value"],
    mass: Float[Tensor, "batch head point"],
) -> tuple[
    Float[Tensor, "batch head chunk point value"],
    Float[Tensor, "batch head chunk point"],
    Float[Tensor, "batch head point value"],
    Float[Tensor, "batch head point"],
]:
    """Return what queries that stay the same read of all steps before each chunk, and at the end.

    Chunks are compared pair by pair where they are few. Many are put together to larger chunks, and
    what stands before those is found in the same way. Every exponent is at most zero, and nothing
    is taken relative to a later step.

    Args:
        logits: of every step for each query; `NOTHING` where there is no step.
        value: of every step; zero where there is no step.
        read: what the queries read of the steps before.
        mass: logarithm of the sum of the exponentials of those steps' logits; `NOTHING` for none.

    Returns:
        What was read before each chunk, and its mass; both after the last chunk.
    """
    return _before(logits.logsumexp(3), logits.softmax(3).mT @ value, read, mass)


def _before(
    wholes: Float[Tensor, "batch head chunk point"],
    totals: Float[Tensor, "batch head chunk point value"],
    read: Float[Tensor, "batch head point value"],
    mass: Float[Tensor, "batch head point"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what stands before each chunk and after the last, from what each is as a whole."""
    chunks = wholes.shape[2]
    if chunks <= COMPARED:
        return _compared(wholes, totals, read, mass)
    missing = -chunks % COMPARED
    logits = F.pad(wholes, (0, 0, 0, missing), value=NOTHING).unflatten(2, (-1, COMPARED))
    parts = F.pad(totals, (0, 0, 0, 0, 0, missing)).unflatten(2, (-1, COMPARED))
    larger = (logits.softmax(3)[..., None] * parts).sum(3)
    reads, masses, read, mass = _before(logits.logsumexp(3), larger, read, mass)
    own = (x.transpose(1, 2).flatten(0, 1) for x in (logits, parts, reads, masses))
    earlier, before, *_ = _compared(*own)
    batch, _, groups = logits.shape[:3]
    earlier, before = (
        x.unflatten(0, (batch, groups)).transpose(1, 2).flatten(2, 3)[:, :, :chunks]
        for x in (earlier, before)
    )
    return earlier, before, read, mass


def _compared(
    wholes: Tensor, totals: Tensor, read: Tensor, mass: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do so pair by pair."""
    wholes = torch.cat([mass[:, :, None], wholes], 2).mT[..., None, :]
    totals = torch.cat([read[:, :, None], totals], 2).transpose(2, 3)
    wholes = wholes.masked_fill(~past(wholes), -torch.inf)
    reads, masses = (wholes.softmax(-1) @ totals).transpose(2, 3), wholes.logsumexp(-1).mT
    return reads[:, :, :-1], masses[:, :, :-1], reads[:, :, -1], masses[:, :, -1]


def past(x: Tensor) -> Tensor:
    """Return which of the entries of the last axis do not stand after each one."""
    return torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool, device=x.device).tril()


def _chunked(x: Tensor, size: int) -> Tensor:
    """Cut time into chunks; zeros at the end change nothing that is carried."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % size)).unflatten(2, (-1, size))
