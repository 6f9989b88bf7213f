"""How often a key occurred before, for every step at once."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def counts_before(
    key: Int[Tensor, "batch entry"],
    event: Int[Tensor, "batch entry"],
    amount: Float[Tensor, "batch entry sort"],
) -> Float[Tensor, "batch entry sort"]:
    """Return the sum of ``amount`` over entries of the same key and an earlier event.

    Entries must stand in the order of their events. Sorting makes the cost ``n log n``.

    Args:
        key: what is counted, for instance a concept index.
        event: rank of the event an entry belongs to; entries of one event do not see each other.
        amount: what to sum, several sorts side by side; 0 where an entry is padding. Must be
            multiples of one unit small enough that all sums are exact, so that what comes later
            leaves no trace in them, not even in rounding.

    Returns:
        Sums per entry.
    """
    order = key.argsort(dim=1, stable=True)
    key, event = key.gather(1, order), event.gather(1, order)
    amount = amount.gather(1, order[..., None].expand_as(amount))
    before = amount.cumsum(1) - amount
    new_key = _changes(key)
    at_event = _hold(before, new_key | _changes(event))
    at_key = _hold(before, new_key)
    result = before.new_empty(before.shape)
    return result.scatter_(1, order[..., None].expand_as(amount), at_event - at_key)


def _changes(x: Int[Tensor, "batch entry"]) -> Bool[Tensor, "batch entry"]:
    """Return where a value differs from the one before it; the first always does."""
    first = torch.ones_like(x[:, :1], dtype=torch.bool)
    return torch.cat([first, x[:, 1:] != x[:, :-1]], dim=1)


def _hold(
    value: Float[Tensor, "batch entry sort"], where: Bool[Tensor, "batch entry"]
) -> Float[Tensor, "batch entry sort"]:
    """Return the value at the latest marked entry; the first entry must be marked."""
    place = torch.arange(value.shape[1], device=value.device).expand(where.shape)
    latest = torch.where(where, place, 0).cummax(1).values
    return value.gather(1, latest[..., None].expand_as(value))
