"""From what moved to which input it was, how far it reaches, and what kind of leak it is."""

from dataclasses import dataclass, replace

import numpy as np

from kt_forecast.audit.pipeline.changes import Change, apply
from kt_forecast.audit.pipeline.compare import COLUMNS, compare
from kt_forecast.audit.pipeline.frames import plain
from kt_forecast.audit.pipeline.probes import LATER, Hit, Search
from kt_forecast.audit.pipeline.reach import Reach, moves, reach
from kt_forecast.audit.pipeline.world import MAIN

MOST = 0.6
"""Share of earlier rows that move where a statistic of all rows is used."""
HALF = 0.5
"""Share of later rows that a value needs where a statistic of all rows is used."""
NEAR = 3
"""Later rows that windows and shifts of a few rows read."""
COARSE = 0.75
"""Share of rows below which a result is taken to be of bins of rows."""
VICTIMS, TRIED = 2, 6
"""Rows whose reach is measured, and rows tried for that."""


@dataclass(frozen=True)
class Diagnosis:
    """What kind of leak a column has.

    Attributes:
        pattern: its name in `repair.REPAIRS`.
        inputs: the columns that it comes from.
        reach: the furthest of the rows tried; None if no later row is needed.
    """

    pattern: str
    inputs: tuple[str, ...]
    reach: Reach | None = None


def diagnose(search: Search, hits: list[Hit]) -> Diagnosis:
    """Say what kind of leak the hits of one column in one family of probes are."""
    hit = hits[0]
    if hit.name == COLUMNS:
        return Diagnosis("selected on test rows", guilty(search, hit))
    if hit.change.probe in LATER:
        return _later(search, hits)
    inputs = guilty(search, hit)
    if hit.change.probe in {"own", "answer"}:
        target = search.world[MAIN].contract.target
        if hit.change.probe == "answer":
            return Diagnosis("knows the answer", inputs)
        return Diagnosis("own answer" if target in inputs else "post-answer field", inputs)
    if hit.change.probe == "fit":
        return Diagnosis(_fitted(search, hit), inputs)
    return Diagnosis("other entities", inputs)


def guilty(search: Search, hit: Hit) -> tuple[str, ...]:
    """Return the columns whose change alone moves the hit's column."""
    change = hit.change
    if change.probe in {"truncate", "order", "times"} or change.kind == "drop":
        tables = [t for t in search.world if t != MAIN]
        named = [t for t in tables if _still(search, hit, replace(change, table=t))]
        plainly = {"times": search.world[MAIN].contract.time, "order": "(order of rows)"}
        return tuple(named) or (plainly.get(change.probe, "(later rows)"),)
    if change.columns:
        return change.columns
    sides = search.world.items()
    found = [
        column if table == MAIN else f"{table}.{column}"
        for table, side in sides
        for column in (side.contract.answers if change.probe == "own" else side.changeable)
        if _still(search, hit, replace(change, columns=(column,), table=table))
    ]
    return tuple(found) or ("(several together)",)


def _still(search: Search, hit: Hit, change: Change) -> bool:
    try:
        return hit.name in search.outcome(change, hit.first).moved
    except Exception:  # noqa: BLE001  (a change that the user's function refuses shows nothing)
        return False


def _later(search: Search, hits: list[Hit]) -> Diagnosis:
    by_probe = {p: [h for h in hits if h.probe == p] for p in LATER}
    valued = by_probe["mutate"]
    # Nulls shorten what is read; other replacements say more about which values are read.
    telling = [h for h in valued if h.change.kind != "null"] or valued
    hit = (telling or by_probe["times"] or by_probe["gaps"] or hits)[0]
    hit = max((h for h in hits if h.probe == hit.probe), key=_weight)
    inputs = _inputs(search, hit, by_probe)
    table = next((i.split(".")[0] for i in inputs if i.split(".")[0] in search.world), MAIN)
    if table != MAIN:
        far = _furthest(search, replace(hit, change=replace(hit.change, table=table)))
        return Diagnosis("forward join", inputs, far[0] if far else None)
    measured = [r for h in by_probe["truncate"][:1] for r in _furthest(search, h)]
    measured = measured or _furthest(search, hit)
    furthest = max(measured, key=lambda r: r.rows, default=None)
    if not telling:
        if by_probe["gaps"] and not by_probe["truncate"]:
            return Diagnosis(_filled(search, hit), inputs, furthest)
        return Diagnosis(
            "times of later rows" if by_probe["times"] else "number of rows", inputs, furthest
        )
    return Diagnosis(_valued(search, hit, telling, inputs, measured), inputs, furthest)


def _weight(hit: Hit) -> tuple[bool, int]:
    return hit.change.kind != "null", len(hit.moved.rows)


def _inputs(search: Search, hit: Hit, by_probe: dict[str, list[Hit]]) -> tuple[str, ...]:
    inputs = guilty(search, hit)
    if hit.first is not None and not by_probe["truncate"]:
        main = search.world[MAIN]
        columns = [c for c in main.changeable if c not in main.contract.answers]
        planted = [replace(hit, first=replace(hit.first, columns=(c,))) for c in columns]
        named = [c for c, h in zip(columns, planted, strict=True) if _still(search, h, hit.change)]
        return tuple(named) or inputs
    return inputs


def _furthest(search: Search, hit: Hit) -> list[Reach]:
    """Measure the reach of the rows that moved closest to the cut, of one entity."""
    rows = hit.moved.rows
    if not len(rows):
        return []
    base = search.base
    entities, counts = np.unique(base.entity[rows], return_counts=True)
    own = rows[base.entity[rows] == entities[counts.argmax()]]
    own = own[np.argsort(base.needed[own], kind="stable")]
    found: list[Reach] = []
    for row in own[::-1][:TRIED].tolist():
        if len(found) == VICTIMS:
            break
        try:
            measured = reach(search, hit, row)
        except Exception:  # noqa: BLE001  (no figure is better than no finding)
            measured = None
        if measured:
            found.append(measured)
    return found


def _valued(
    search: Search, hit: Hit, telling: list[Hit], inputs: tuple[str, ...], measured: list[Reach]
) -> str:
    """Name a leak of values."""
    latest = max(h.change.moment for h in telling)
    share = max(h.moved.share for h in telling if h.change.moment == latest)
    over_border = bool(measured) and not any(r.own for r in measured)
    if share <= MOST and over_border and not _reads_past(search, hit):
        return "order of rows"
    wide = share > MOST or any(r.share > HALF for r in measured)
    # Bin edges and codes move few rows, but from afar.
    distant = not measured or any(r.rows > NEAR for r in measured)
    if wide or (distant and _of_order_or_kind(search, hit, inputs)):
        return _statistic(search, hit, inputs)
    if _only_missing(search, hit, inputs):
        return _filled(search, hit)
    if not _reads_past(search, hit):
        return "lead"
    one_end = len({r.last for r in measured}) == 1 < len(measured)
    coarse = len(search.base) < COARSE * len(search.world[MAIN])
    return "label of a bin" if one_end or coarse else "window reaching ahead"


def _statistic(search: Search, hit: Hit, inputs: tuple[str, ...]) -> str:
    """Name a statistic over all rows."""
    main = search.world[MAIN]
    if main.contract.target in inputs:
        return "target encoding"
    if _of_kinds(search, hit, inputs):
        return "codes or frequencies"
    if not _reads_past(search, hit):
        return "reversed recursion"
    if _monotone(search, hit, inputs):
        return "ranks or quantiles"
    return f"statistic of {'an entity' if _alone(search, hit) else 'the table'}"


def _of_order_or_kind(search: Search, hit: Hit, inputs: tuple[str, ...]) -> bool:
    return _of_kinds(search, hit, inputs) or _monotone(search, hit, inputs)


def _of_kinds(search: Search, hit: Hit, inputs: tuple[str, ...]) -> bool:
    """Say whether an input is of kinds rather than amounts."""
    frame = search.world[MAIN].frame
    named = [i for i in inputs if i in frame.names]
    text = any(plain(frame.values(i)).dtype == object for i in named)
    return text or _same_counts(search, hit, inputs)


def _filled(search: Search, hit: Hit) -> str:
    return "interpolation" if _reads_past(search, hit) else "backward fill"


def _only_missing(search: Search, hit: Hit, inputs: tuple[str, ...]) -> bool:
    """Say whether all rows that moved have a missing value in the input."""
    main = search.world[MAIN]
    rows = search.base.row[hit.moved.rows]
    if not len(rows) or (rows < 0).any():
        return False
    columns = [i for i in inputs if i in main.frame.names]
    return any(main.frame.missing(c)[rows].all() for c in columns)


def _reads_past(search: Search, hit: Hit) -> bool:
    """Say whether the value of the row closest to the cut moves with what is known by then."""
    rows = hit.moved.rows
    row = int(rows[np.argmax(search.base.needed[rows])])
    base, world = search.base, search.world
    if hit.first is not None:
        world = apply(world, hit.first)
        base = search.pipeline(world)
    change = Change("past", "redraw", int(base.needed[row]), search.seed + 1)
    return moves(base, search.pipeline(apply(world, change)), hit.name, row)


def _alone(search: Search, hit: Hit) -> bool:
    """Say whether a value stays when only later rows of other entities change."""
    main = search.world[MAIN]
    if not main.contract.entity:
        return False
    entity = int(search.base.entity[hit.moved.rows[0]])
    own = tuple(main.row[main.entity == entity].tolist())
    outcome = search.outcome(replace(hit.change, keep=own), hit.first)
    rows = outcome.moved.get(hit.name)
    return rows is None or not (search.base.entity[rows.rows] == entity).any()


def _monotone(search: Search, hit: Hit, inputs: tuple[str, ...]) -> bool:
    """Say whether only the order of a column's values counts."""
    main = search.world[MAIN]
    if len(inputs) != 1 or inputs[0] not in main.frame.names:
        return False
    values = main.frame.values(inputs[0])
    if values.dtype.kind != "f":
        return False
    where = ~main.frame.missing(inputs[0])
    spread = float(np.std(values[where])) or 1.0
    bent = np.expm1((values[where] - values[where].min()) / spread)
    world = {**search.world, MAIN: main.put(inputs[0], where, bent)}
    every = np.ones(len(search.base), dtype=bool)
    return hit.name not in compare(search.base, search.pipeline(world), every).moved


def _same_counts(search: Search, hit: Hit, inputs: tuple[str, ...]) -> bool:
    """Say whether a column of codes matters only by which values are equal."""
    main = search.world[MAIN]
    if len(inputs) != 1 or inputs[0] not in main.frame.names:
        return False
    values = main.frame.values(inputs[0])
    if values.dtype.kind not in "iu":
        return False
    where = np.ones(len(values), dtype=bool)
    renamed = (values.max() - values + values.min()).astype(values.dtype)
    world = {**search.world, MAIN: main.put(inputs[0], where, renamed)}
    every = np.ones(len(search.base), dtype=bool)
    return hit.name not in compare(search.base, search.pipeline(world), every).moved


def _fitted(search: Search, hit: Hit) -> str:
    if hit.name in search.base.columns and hit.moved.share < MOST:
        return "window over the border"
    return "fitted on test rows"
