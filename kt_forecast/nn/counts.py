"""What happened to a key before: how often, and what last, for every step at once.

An entry is one occurrence of a key (a concept, say) in a step; entries stand in the order of their
events, and those of one event do not see each other. Sorting makes the cost ``n log n``.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def counts_before(
    key: Int[Tensor, "batch entry"],
    event: Int[Tensor, "batch entry"],
    amount: Float[Tensor, "batch entry sort"],
) -> Float[Tensor, "batch entry sort"]:
    """Return the sum of ``amount`` over entries of the same key and an earlier event.

    Args:
        key: what is counted, for instance a concept index.
        event: rank of the event an entry belongs to.
        amount: what to sum, several sorts side by side; 0 where an entry is padding. Must be
            multiples of one unit small enough that all sums are exact, so that what comes later
            leaves no trace in them, not even in rounding.

    Returns:
        Sums per entry.
    """
    order, key_start, event_start = _groups(key, event)
    amount = amount.gather(1, order[..., None].expand_as(amount))
    before = amount.cumsum(1) - amount
    result = torch.empty_like(before)
    found = _at(before, event_start) - _at(before, key_start)
    return result.scatter_(1, order[..., None].expand_as(amount), found)


def last_before(
    key: Int[Tensor, "batch entry"],
    event: Int[Tensor, "batch entry"],
    value: Float[Tensor, "batch entry"],
    carried: Float[Tensor, "batch entry kept"],
) -> Float[Tensor, "batch entry kept"]:
    """Return the newest values of the same key from earlier events, newest first.

    Args:
        key: what is looked back on.
        event: rank of the event an entry belongs to.
        value: what to remember of an entry.
        carried: what each entry's key left from before the first entry, newest first, 0 where
            there was nothing.

    Returns:
        As many values as are carried; 0 where there is nothing.
    """
    order, key_start, event_start = _groups(key, event)
    kept = carried.shape[2]
    back = torch.arange(kept, device=key.device)
    place = event_start[..., None] - 1 - back
    here = place >= key_start[..., None]
    value = value.gather(1, order)
    inside = value.gather(1, place.clamp_min(0).flatten(1)).reshape(place.shape)
    available = (event_start - key_start)[..., None]
    carried = carried.gather(1, order[..., None].expand_as(carried))
    outside = carried.gather(2, (back - available).clamp(0, kept - 1))
    found = torch.where(here, inside, outside)
    return torch.empty_like(found).scatter_(1, order[..., None].expand_as(found), found)


def last_after(
    register: Float[Tensor, "batch key kept"],
    key: Int[Tensor, "batch entry"],
    value: Float[Tensor, "batch entry"],
    counts: Bool[Tensor, "batch entry"],
) -> Float[Tensor, "batch key kept"]:
    """Return the newest values of every key after some more entries, newest first.

    Args:
        register: the newest values before them, 0 where there was nothing.
        key: of each entry.
        value: what to remember of an entry.
        counts: which entries happened.
    """
    batch, keys, kept = register.shape
    aside = torch.where(counts, key, keys)
    number = register.new_zeros(batch, keys + 1, dtype=torch.int64)
    number = number.scatter_add(1, aside, torch.ones_like(aside))
    ends = number.cumsum(1)
    order = aside.argsort(dim=1, stable=True)
    aside = aside.gather(1, order)
    place = torch.arange(key.shape[1], device=key.device)
    from_end = ends.gather(1, aside) - 1 - place
    slot = torch.where((aside < keys) & (from_end < kept), aside * kept + from_end, keys * kept)
    shift = torch.arange(kept, device=key.device) - number[:, :keys, None]
    older = register.gather(2, shift.clamp(0, kept - 1)) * (shift >= 0)
    flat = torch.cat([older.flatten(1), register.new_zeros(batch, 1)], 1)
    flat = flat.scatter(1, slot, value.gather(1, order).to(flat.dtype))
    return flat[:, :-1].reshape(register.shape)


def _groups(
    key: Int[Tensor, "batch entry"], event: Int[Tensor, "batch entry"]
) -> tuple[Int[Tensor, "batch entry"], Int[Tensor, "batch entry"], Int[Tensor, "batch entry"]]:
    """Sort by key, and tell where in that order each entry's key and its event of it begin."""
    order = key.argsort(dim=1, stable=True)
    key, event = key.gather(1, order), event.gather(1, order)
    place = torch.arange(key.shape[1], device=key.device).expand(key.shape)
    new_key = _changes(key)
    key_start = torch.where(new_key, place, 0).cummax(1).values
    event_start = torch.where(new_key | _changes(event), place, 0).cummax(1).values
    return order, key_start, event_start


def _changes(x: Int[Tensor, "batch entry"]) -> Bool[Tensor, "batch entry"]:
    """Return where a value differs from the one before it; the first always does."""
    first = torch.ones_like(x[:, :1], dtype=torch.bool)
    return torch.cat([first, x[:, 1:] != x[:, :-1]], dim=1)


def _at(
    value: Float[Tensor, "batch entry sort"], place: Int[Tensor, "batch entry"]
) -> Float[Tensor, "batch entry sort"]:
    return value.gather(1, place[..., None].expand_as(value))
