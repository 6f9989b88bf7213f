"""How many later rows, and how much time, a value needs to be what it is."""

from dataclasses import dataclass

import numpy as np

from kt_forecast.audit.pipeline.changes import Change, apply
from kt_forecast.audit.pipeline.compare import differing
from kt_forecast.audit.pipeline.output import Output
from kt_forecast.audit.pipeline.probes import Hit, Search
from kt_forecast.audit.pipeline.world import MAIN, Ranks, Side


@dataclass(frozen=True)
class Reach:
    """How far ahead one value reads.

    Attributes:
        rows: later rows it needs; of its own entity where those suffice.
        time: from its own time to that of the last row needed, in the table's unit (nanoseconds
            for dates).
        own: whether rows of its own entity suffice.
        share: of the later rows that there are.
        last: number of the last row needed; -1 if it needs none.
    """

    rows: int
    time: float
    own: bool
    share: float
    last: int


def reach(search: Search, hit: Hit, row: int) -> Reach | None:
    """Bisect the number of later rows that the value of a hit's column needs.

    Args:
        search: the search that found it.
        hit: what moved, and by which change.
        row: the row of the first run.

    Returns:
        The reach, or None where leaving out all later rows changes nothing.
    """
    side = _side(search, hit)
    need = int(search.base.needed[row])
    later = np.flatnonzero((side.available > need) & side.testing)
    if not len(later):
        return None
    by_time = later[np.lexsort((later, side.available[later]))]
    entity = search.base.entity[row]
    own = by_time[side.entity[by_time] == entity] if len(np.unique(side.entity)) > 1 else by_time
    orders = [(by_time, False)]
    if 0 < len(own) < len(by_time):
        orders.insert(0, (np.concatenate([own, by_time[~np.isin(by_time, own)]]), True))
    for order, own_first in orders:
        count = _needed(search, hit, row, need, order)
        if count is None:
            return None
        if not own_first or count <= len(own):
            return _reach(
                search,
                hit,
                row,
                order[:count],
                own=own_first or len(own) == len(by_time),
                available=own if own_first else order,
            )
    return None


def _needed(search: Search, hit: Hit, row: int, need: int, order: Ranks) -> int | None:
    """Return how many rows, in this order, suffice for the value; None if it needs none."""
    low, high = 0, len(order)
    if _same(search, hit, row, need, order[:low]):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _same(search, hit, row, need, order[:middle]):
            high = middle
        else:
            low = middle
    return high


def _same(search: Search, hit: Hit, row: int, need: int, keep: Ranks) -> bool:
    """Say whether a value is the same when of all later rows only some are kept."""
    side = _side(search, hit)
    truncating = hit.change.probe == "truncate" and search.pipeline.form != "split"
    change = Change(
        "truncate" if truncating else "mutate",
        "" if truncating else hit.change.kind or "redraw",
        need,
        hit.change.seed,
        table=hit.change.table or MAIN,
        rows="others" if search.splits else "all",
        keep=(-1, *side.row[keep].tolist()),
    )
    base, world = search.base, search.world
    if hit.first is not None:
        world = apply(world, hit.first)
        base = search.pipeline(world)
    other = search.pipeline(apply(world, change))
    return not moves(base, other, hit.name, row)


def moves(base: Output, other: Output, name: str, row: int) -> bool:
    """Say whether one value differs between two runs, or its row is gone."""
    found = np.flatnonzero(other.identity == base.identity[row])
    if not len(found) or name not in other.columns:
        return True
    pair = base.columns[name][[row]], other.columns[name][found[:1]]
    return bool(differing(*pair, base.tolerance[name])[0][0])


def _reach(
    search: Search, hit: Hit, row: int, needed: Ranks, *, own: bool, available: Ranks
) -> Reach:
    side = _side(search, hit)
    moments = search.pipeline.moments
    end = min(int(side.available[needed].max()), len(moments) - 1)
    start = int(search.base.needed[row])
    span = float(moments[end] - moments[start]) if start >= 0 else 0.0
    last = int(side.row[needed[-1]])
    return Reach(len(needed), span, own, len(needed) / len(available), last)


def _side(search: Search, hit: Hit) -> Side:
    return search.world[hit.change.table or MAIN]
