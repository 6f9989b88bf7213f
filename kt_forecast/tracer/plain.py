"""What happened to a key before, entry by entry: the meaning of `kt_forecast.nn.counts`, slowly.

Sums over sorted keys cancel what belongs to other keys, exactly; that they do cannot be seen by
following operations. Here every entry is compared with every other one, and what is not earlier
is masked, so that an audit can follow it.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def counts_before(
    key: Int[Tensor, "batch entry"],
    event: Int[Tensor, "batch entry"],
    amount: Float[Tensor, "batch entry sort"],
) -> Float[Tensor, "batch entry sort"]:
    """Return what `kt_forecast.nn.counts.counts_before` returns."""
    chosen = _matches(key, event).to(amount.dtype)
    return (chosen[..., None] * amount[:, None]).sum(2)


def last_before(
    key: Int[Tensor, "batch entry"],
    event: Int[Tensor, "batch entry"],
    value: Float[Tensor, "batch entry"],
    carried: Float[Tensor, "batch entry kept"],
) -> Float[Tensor, "batch entry kept"]:
    """Return what `kt_forecast.nn.counts.last_before` returns."""
    match = _matches(key, event)
    later = match.flip(2).cumsum(2).flip(2) - match
    total = match.sum(2, keepdim=True)
    kept = carried.shape[2]
    inside = [
        ((match * (later == place)).to(value.dtype) * value[:, None]).sum(2)
        for place in range(kept)
    ]
    back = torch.arange(kept, device=key.device)
    outside = carried.gather(2, (back - total).clamp(0, max(kept - 1, 0)))
    return torch.where(back < total, torch.stack(inside, 2), outside) if kept else carried


def _matches(
    key: Int[Tensor, "batch entry"], event: Int[Tensor, "batch entry"]
) -> Int[Tensor, "batch entry other"]:
    """Return 1 where another entry has the same key and an earlier event."""
    earlier = event[:, None] < event[:, :, None]
    same = key[:, None] == key[:, :, None]
    return torch.where(earlier, same.long(), 0)
