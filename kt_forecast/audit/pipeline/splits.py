"""Exact comparisons of the splits of a table: entities, times, duplicated rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kt_forecast.audit.pipeline.frames import Array, hashable, plain, ticks
from kt_forecast.audit.pipeline.world import Mask, Side

GRAIN = 1e-3
"""Share of a column's spread within which two numbers count as nearly equal."""
BEYOND_CHANCE = 10
"""How many times more near duplicates than by chance are worth a word."""
SEQUENCE = 8
"""Rows an entity needs before its whole sequence is compared."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a split.

    Attributes:
        pattern: its name in `repair.REPAIRS`.
        input: columns concerned.
        count: rows or entities concerned.
        where: an example.
        doubtful: why it may be right; empty for a leak.
    """

    pattern: str
    input: str
    count: int
    where: dict[str, Any]
    doubtful: str = ""


def compare_splits(side: Side) -> Iterator[Fault]:
    """Compare training rows with the others."""
    training, testing = side.training, side.testing
    contract = side.contract
    times = ticks(side.frame.values(contract.time))
    shared = np.intersect1d(side.entity[training], side.entity[testing])
    if contract.entity:
        mixed = [e for e in shared.tolist() if _mixed(times, side.entity == e, side)]
        if mixed:
            names = side.frame.values(contract.entity)
            example = str(names[side.entity == mixed[0]][0])
            yield Fault("entity in two splits", contract.entity, len(mixed), {"entity": example})
        elif len(shared):
            late = int((times[training] > times[testing].min()).sum())
            if late:
                why = "training rows of some entities are later than test rows of others"
                yield Fault("time order", contract.time, late, {}, why)
    elif times[training].max() >= times[testing].min():
        late = int((times[training] >= times[testing].min()).sum())
        yield Fault("time order", contract.time, late, {"first": str(times[testing].min())})
    yield from _duplicates(side)
    yield from _twins(side)
    yield from _near(side)


def duplicates_inside(side: Side) -> Iterator[Fault]:
    """Count rows that occur twice, which a random split would put on both sides."""
    seen: set[Any] = set()
    again = 0
    for row in zip(*(hashable(side.frame.values(c)) for c in side.frame.names), strict=True):
        again += str(row) in seen
        seen.add(str(row))
    if again:
        why = "a random split would put the same row on both sides"
        yield Fault("duplicated rows", ", ".join(side.frame.names), again, {}, why)


def _mixed(times: Array, own: Mask, side: Side) -> bool:
    """Say whether an entity's training rows are not all before its others."""
    return bool(times[own & side.training].max() >= times[own & side.testing].min())


def _duplicates(side: Side) -> Iterator[Fault]:
    split = side.contract.split
    names = [c for c in side.frame.names if c != split]
    written = [
        str(row) for row in zip(*(hashable(side.frame.values(c)) for c in names), strict=True)
    ]
    trained = {row for row, t in zip(written, side.training, strict=True) if t}
    both = [i for i, row in enumerate(written) if side.testing[i] and row in trained]
    if both:
        example = {"row": int(side.row[both[0]])}
        yield Fault("duplicated rows", ", ".join(names), len(both), example)


def _twins(side: Side) -> Iterator[Fault]:
    """Find entities of different splits with the same rows under another name."""
    contract = side.contract
    if not contract.entity:
        return
    content = _content(side)
    found: dict[str, tuple[bool, int]] = {}
    twins = 0
    for entity in np.unique(side.entity):
        own = np.flatnonzero(side.entity == entity)
        if len(own) < SEQUENCE:
            continue
        own = own[np.argsort(side.needed[own], kind="stable")]
        written = str([content[i] for i in own])
        training = bool(side.training[own].all())
        known = found.setdefault(written, (training, int(entity)))
        twins += known[1] != int(entity) and known[0] != training
    if twins:
        yield Fault("entity under two names", contract.entity, twins, {})


def _content(side: Side) -> list[tuple[Any, ...]]:
    names = [c for c in side.changeable if c != side.contract.split]
    columns = [_grained(plain(side.frame.values(c))) for c in names]
    return list(zip(*(c.tolist() for c in columns), strict=True)) if columns else [()] * len(side)


def _grained(values: Array) -> Array:
    if values.dtype == object:
        return values
    spread = float(np.nanstd(values)) if np.isfinite(values).any() else 0.0
    return np.round(np.nan_to_num(values, nan=-1e300) / max(GRAIN * spread, 1e-300))


def _near(side: Side) -> Iterator[Fault]:
    """Find rows that agree in every column but their key, far more often than chance would."""
    content = _content(side)
    if not content[0]:
        return
    training = side.training
    rng = np.random.default_rng(0)
    columns = list(zip(*content, strict=True))
    test = [np.array(c, dtype=object)[side.testing] for c in columns]
    trained = {row for row, t in zip(content, training, strict=True) if t}
    seen = sum(row in trained for row in zip(*test, strict=True))
    shuffled = zip(*(rng.permutation(c) for c in test), strict=True)
    chance = sum(row in trained for row in shuffled)
    if seen > BEYOND_CHANCE * (chance + 1):
        why = "rows of different keys hold the same values: copies, or values that seldom change"
        yield Fault("near duplicates", ", ".join(side.changeable), seen, {"by_chance": chance}, why)
