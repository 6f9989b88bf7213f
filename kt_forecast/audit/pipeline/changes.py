"""The changes that probes make to tables, each a small record from which it can be repeated."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kt_forecast.audit.pipeline.contract import PipelineError
from kt_forecast.audit.pipeline.frames import Array, ticks
from kt_forecast.audit.pipeline.world import MAIN, Mask, Side, World

Rows = Literal["all", "training", "others"]
KINDS = ("redraw", "extreme", "permute", "null")
"""Other values of the column and noise; values never seen; the same in another order; nothing."""
FAR = -7.3
"""What extreme numbers are multiplied by, beside a shift of many spreads."""
PLANTED = 0.5
"""Share of entities whose last known row is emptied by the probe of gaps."""


@dataclass(frozen=True)
class Change:
    """One change of the tables.

    Attributes:
        probe: what is looked for, see `probes.PROBES`.
        kind: how values are replaced or rows arranged.
        moment: rank of the moment after which, or at which, rows change.
        seed: of what is drawn.
        columns: only these; all that may change when empty.
        table: only this table; None for all.
        rows: whether only training rows, or only others, change.
        entity: whose rows stay, where those of others change.
        keep: numbers of rows that stay although they come later.
    """

    probe: str
    kind: str = ""
    moment: int = -1
    seed: int = 0
    columns: tuple[str, ...] = ()
    table: str | None = None
    rows: Rows = "all"
    entity: int = -1
    keep: tuple[int, ...] = ()


def apply(world: World, change: Change) -> World:
    """Return changed copies of the tables."""
    changed = dict(world)
    for number, (name, side) in enumerate(world.items()):
        if change.table in {None, name}:
            rng = np.random.default_rng([change.seed, change.moment + 1, number])
            changed[name] = _changed(side, change, rng, main=name == MAIN)
    return changed


def _changed(side: Side, change: Change, rng: np.random.Generator, *, main: bool) -> Side:
    where = selected(side, change, main=main)
    if change.probe == "truncate":
        return side.take(~where)
    if change.kind == "drop":
        return side.take(~(where & (rng.random(len(side)) < PLANTED)))
    if change.probe == "order":
        return side.take(_order(side, change.kind, rng)) if main else side
    if change.probe == "times":
        return _stretched(side, where, rng) if main else side
    kind = change.kind
    for column in _columns(side, change, main=main):
        side = replace_cells(side, column, where, kind, rng)
    return side


def selected(side: Side, change: Change, *, main: bool) -> Mask:
    """Say which rows of a table change."""
    n = len(side)
    if change.probe in {"truncate", "times"}:
        where = side.needed > change.moment
    elif change.probe in {"mutate", "known"}:
        where = side.available > change.moment
    elif change.probe in {"own", "answer"}:
        where = (side.needed == change.moment) & main
    elif change.probe == "past":
        where = side.available <= change.moment
    elif change.probe == "entity":
        where = (side.entity != change.entity) & main
    elif change.probe == "gaps":
        where = _last_known(side, change) & main
    else:
        where = np.full(n, main or change.probe == "power")
    if change.rows != "all":
        where = where & (side.training if change.rows == "training" else side.testing)
    if change.keep:
        where = where & ~np.isin(side.row, change.keep)
    return np.asarray(where, dtype=bool)


def _columns(side: Side, change: Change, *, main: bool) -> tuple[str, ...]:
    if change.columns:
        return tuple(c for c in change.columns if c in side.frame.names)
    if change.probe == "own":
        return side.contract.answers if main else ()
    if change.probe == "known":
        fixed = (side.contract.time, side.contract.entity, *side.contract.key)
        return tuple(c for c in side.contract.known if c not in fixed)
    if change.probe == "gaps":
        return tuple(c for c in gappable(side) if c not in side.contract.answers)
    return side.changeable


def gappable(side: Side) -> tuple[str, ...]:
    """Return columns in which a missing value is nothing new in kind."""
    return tuple(
        c
        for c in side.changeable
        if side.frame.values(c).dtype.kind == "f" or side.frame.missing(c).any()
    )


def _last_known(side: Side, change: Change) -> Mask:
    """Return the last row known of some entities."""
    rng = np.random.default_rng([change.seed, change.moment + 1])
    where = np.zeros(len(side), dtype=bool)
    known = np.flatnonzero(side.available <= change.moment)
    for entity in np.unique(side.entity[known]):
        own = known[side.entity[known] == entity]
        if rng.random() < PLANTED or entity == side.entity[known[-1]]:
            where[own[np.argmax(side.needed[own])]] = True
    return where


def _order(side: Side, kind: str, rng: np.random.Generator) -> Array:
    """Return another order of rows: blocks of entities, rows of one moment, or all of them."""
    n = len(side)
    drawn = rng.permutation(n)
    if kind == "blocks":
        rank = rng.permutation(int(side.entity.max()) + 1)
        return np.argsort(rank[side.entity], kind="stable")
    if kind == "ties":
        _, block = np.unique(side.needed, return_inverse=True)
        return np.lexsort((drawn, block))
    return drawn


def _stretched(side: Side, where: Mask, rng: np.random.Generator) -> Side:
    """Move later rows further away in time, in the order they had.

    Raises:
        PipelineError: the times are no numbers or dates.
    """
    name = side.contract.time
    values = side.frame.values(name)
    if values.dtype.kind == "O":
        raise PipelineError("times that are text or of a time zone cannot be moved")
    times = ticks(values)
    if not where.any() or where.all():
        return side
    start = times[~where].max()
    gaps = np.maximum(times[where] - start, 0)
    factor = rng.integers(2, 5)
    moved = (start + gaps * factor).astype(times.dtype)
    if values.dtype.kind == "M":
        moved = moved.astype("datetime64[ns]").astype(values.dtype)
    return side.put(name, where, moved)


def replace_cells(side: Side, name: str, where: Mask, kind: str, rng: np.random.Generator) -> Side:
    """Replace the cells of one column; where no kind fits, leave them."""
    if not where.any():
        return side
    if kind in {"null", "gap"}:
        return side.put(name, where, None)
    values, present = side.frame.values(name), ~side.frame.missing(name)
    target = where & present if kind != "permute" else where
    if kind == "permute":
        order = rng.permutation(np.flatnonzero(where & present))
        return side.put(name, where & present, values[order])
    if not target.any():
        return side
    new = another(values[present], values[target], kind, rng)
    return side.put(name, target, new)


def another(pool: Array, old: Array, kind: str, rng: np.random.Generator) -> Array:
    """Return other values of the same kind.

    Args:
        pool: the column's values.
        old: those to replace.
        kind: ``redraw`` or ``extreme``, see `KINDS`.
        rng: source of what is drawn.
    """
    sort = old.dtype.kind
    drawn = pool[rng.integers(0, len(pool), len(old))]
    extreme = kind == "extreme"
    if sort == "b" or (sort == "O" and all(isinstance(v, bool) for v in old)):
        return np.array([not v for v in old], dtype=old.dtype)
    if sort in "iuf":
        return _other_numbers(pool, old, drawn, rng, extreme=extreme)
    if extreme and sort == "M":
        return pool.max() + (pool.max() - drawn)
    if extreme and all(isinstance(v, str) for v in old):
        marks = np.where(rng.random(len(old)) < 0.5, "!unseen", "~unseen")
        return marks.astype(object)
    return drawn


def _other_numbers(
    pool: Array, old: Array, drawn: Array, rng: np.random.Generator, *, extreme: bool
) -> Array:
    if set(np.unique(pool)) <= {0, 1}:
        return (1 - old).astype(old.dtype)
    whole = bool((pool == np.round(pool)).all())
    if whole and not extreme:
        return drawn
    if old.dtype.kind in "iu":
        top, bottom = int(pool.max()), int(pool.min())
        below = min(bottom, 1) - 1 if old.dtype.kind == "i" else top + 2
        return np.where(rng.random(len(old)) < 0.5, top + 1, below).astype(old.dtype)
    spread = float(np.std(pool)) or 1.0
    if extreme:
        return (FAR * old + 1e3 * spread).astype(old.dtype)
    return (drawn + spread * rng.standard_normal(len(old))).astype(old.dtype)


def described(change: Change, world: World, moments: Array) -> dict[str, object]:
    """Return a change as plain values that replay it."""
    kept = {k: v for k, v in vars(replace(change)).items() if v not in {"", None, ()} and v != -1}
    kept["columns"] = list(change.columns)
    if 0 <= change.moment < len(moments):
        time = world[MAIN].frame.values(world[MAIN].contract.time)
        of = moments[change.moment]
        kept["time"] = str(np.datetime64(int(of), "ns")) if time.dtype.kind == "M" else float(of)
    return kept
