"""What moved between two runs, among the rows that must not move."""

from dataclasses import dataclass, field

import numpy as np

from kt_forecast.audit.pipeline.frames import Array
from kt_forecast.audit.pipeline.output import Output
from kt_forecast.audit.pipeline.world import Mask, Ranks

PRESENCE = "(which rows are returned)"
COLUMNS = "(which columns are returned)"
FITTED = "fitted"


@dataclass(frozen=True)
class Moved:
    """How one column moved.

    Attributes:
        rows: rows of the first run that moved.
        effect: largest change; 1 where text or a missing value changed.
        share: of the rows compared.
        before: value of the first row that moved most, and `after`.
    """

    rows: Ranks
    effect: float
    share: float
    before: object = None
    after: object = None


@dataclass(frozen=True)
class Comparison:
    """The outcome of one change.

    Attributes:
        compared: rows that both runs returned and that must not move.
        moved: by column, fitted path, or one of the names above.
    """

    compared: int
    moved: dict[str, Moved] = field(default_factory=dict)


def compare(base: Output, other: Output, victims: Mask) -> Comparison:
    """Compare two runs on rows of the first, beyond rounding."""
    place = {code: i for i, code in enumerate(other.identity.tolist())}
    at = np.array([place.get(code, -1) for code in base.identity.tolist()], dtype=np.int64)
    mine = np.flatnonzero(victims & (at >= 0))
    theirs = at[mine]
    moved: dict[str, Moved] = {}
    for name, column in base.columns.items():
        if name in other.columns and len(mine):
            pair = column[mine], other.columns[name][theirs]
            tolerance = max(base.tolerance[name], other.tolerance[name] * 1e-3)
            found = _moved(*pair, tolerance, mine)
            if found:
                moved[name] = found
    lost = np.flatnonzero(victims & (at < 0))
    if len(lost):
        moved[PRESENCE] = Moved(lost, float(len(lost)), len(lost) / max(int(victims.sum()), 1))
    if set(base.columns) != set(other.columns):
        moved[COLUMNS] = _listed(set(base.columns), set(other.columns))
    return Comparison(len(mine), moved)


def compare_fitted(base: Output, other: Output) -> dict[str, Moved]:
    """Compare what two runs fitted, and which columns they chose for training."""
    moved = {}
    for path, values in base.artefacts.items():
        theirs = other.artefacts.get(path)
        if theirs is None or len(theirs) != len(values):
            moved[path] = Moved(
                np.zeros(0, dtype=np.int64),
                1.0,
                1.0,
                len(values),
                theirs if theirs is None else len(theirs),
            )
            continue
        largest = np.nanmax(np.abs(values), initial=0.0) if values.dtype != object else 0.0
        found = _moved(values, theirs, 1e-9 * float(largest), np.arange(len(values)))
        if found:
            moved[path] = found
    if base.training_columns != other.training_columns:
        moved[COLUMNS] = _listed(set(base.training_columns), set(other.training_columns))
    for path in other.artefacts.keys() - base.artefacts.keys():
        moved[path] = Moved(np.zeros(0, dtype=np.int64), 1.0, 1.0)
    return moved


def differing(before: Array, after: Array, tolerance: float) -> tuple[Mask, Array]:
    """Say which values differ, and by how much (1 for text and missing values)."""
    if "O" in {before.dtype.kind, after.dtype.kind}:
        different = before.astype(str) != after.astype(str)
        return different, different.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.abs(before - after)
    missing = np.isnan(before) != np.isnan(after)
    same = (before == after) | (np.isnan(before) & np.isnan(after)) | (gap <= tolerance)
    return ~same, np.where(np.isfinite(gap), gap, np.where(missing | ~same, 1.0, 0.0))


def _moved(before: Array, after: Array, tolerance: float, rows: Ranks) -> Moved | None:
    different, size = differing(before, after, tolerance)
    if not different.any():
        return None
    worst = int(np.argmax(np.where(different, size, -1.0)))
    shown = [x.item() if isinstance(x, np.generic) else x for x in (before[worst], after[worst])]
    shown = [None if isinstance(x, float) and not np.isfinite(x) else x for x in shown]
    share = float(different.mean())
    ordered = np.concatenate([rows[[worst]], rows[different & (np.arange(len(rows)) != worst)]])
    return Moved(ordered, float(size[different].max()), share, *shown)


def _listed(before: set[str], after: set[str]) -> Moved:
    names = sorted(before - after), sorted(after - before)
    return Moved(
        np.zeros(0, dtype=np.int64),
        float(len(names[0]) + len(names[1])),
        1.0,
        *map(", ".join, names),
    )
