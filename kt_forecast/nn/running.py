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


def _chunked(x: Tensor, size: int) -> Tensor:
    """Cut time into chunks; zeros at the end change nothing that is carried."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % size)).unflatten(2, (-1, size))
