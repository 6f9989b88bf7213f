"""Systems over all data sets: the rank on each, their mean, and the mean of the scores."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from kt_forecast.experiment.board_rows import SIGNIFICANT, Group, Row

LEVEL = "="
"""Beside a rank: not told from the best by the paired test."""

COLUMNS = {
    "mean rank": "over the data sets on which the system has one; those that lack some come last",
    LEVEL: "beside a rank: not told from the best by the paired test",
}


@dataclass(frozen=True)
class Cell:
    """A system on one data set.

    Attributes:
        value: the score, of several runs their mean.
        runs: of one system under other seeds.
        rank: among the fair; None where a comparison is unfair, or there is no score.
        is_level: whether the best is not told from it.
    """

    value: float
    runs: int
    rank: int | None
    is_level: bool


@dataclass(frozen=True)
class Standing:
    """A system over all data sets.

    Attributes:
        system: its name.
        cells: of each data set; None where it is missing.
        rank: mean of its ranks; None without one.
        means: of the scores by metric, where it has all of them.
        marks: what makes a comparison unfair somewhere.
    """

    system: str
    cells: tuple[Cell | None, ...]
    rank: float | None
    means: dict[str, float]
    marks: tuple[str, ...]


def standings(groups: Sequence[Group]) -> tuple[Standing, ...]:
    """Return every system over all data sets: the complete and fair first, by their mean rank.

    Args:
        groups: systems on the same rows, each.
    """
    by_group = [_cells(group) for group in groups]
    names = list(dict.fromkeys(name for cells in by_group for name in cells))
    found = []
    for name in names:
        cells = tuple(of_group.get(name) for of_group in by_group)
        ranks = [cell.rank for cell in cells if cell is not None and cell.rank is not None]
        marks = dict.fromkeys(
            mark
            for group in groups
            for row in group.rows
            if row.label == name
            for mark in row.marks
        )
        found.append(
            Standing(
                name,
                cells,
                statistics.fmean(ranks) if ranks else None,
                _means(groups, cells),
                tuple(marks),
            )
        )
    return tuple(sorted(found, key=_place))


def table_of(
    groups: Sequence[Group], over_all: Sequence[Standing]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return header and rows of the standings."""
    metrics = _metrics(groups)
    header = ("system", "mean rank", *(f"mean {metric.upper()}" for metric in metrics))
    header += tuple(f"{group.label} {group.metric.upper()}" for group in groups)
    rows = [
        (
            " ".join((one.system, *one.marks)),
            "-" if one.rank is None else f"{one.rank:.2f}",
            *(f"{one.means[m]:.4f}" if m in one.means else "-" for m in metrics),
            *(_worded(cell) for cell in one.cells),
        )
        for one in over_all
    ]
    return header, rows


def _cells(group: Group) -> dict[str, Cell]:
    """Return the systems of a data set, ranked by the mean of their runs."""
    runs: dict[str, list[Row]] = {}
    for row in group.rows:
        runs.setdefault(row.label, []).append(row)
    value = {name: statistics.fmean(row.score.value for row in rows) for name, rows in runs.items()}
    fair = [
        name
        for name, rows in runs.items()
        if not any(row.marks for row in rows) and not math.isnan(value[name])
    ]
    ranked = sorted(fair, key=lambda name: value[name] if group.lower else -value[name])
    return {
        name: Cell(
            value[name],
            len(rows),
            ranked.index(name) + 1 if name in fair else None,
            name not in ranked[:1]
            and all(row.gap is None or row.gap.p > SIGNIFICANT for row in rows),
        )
        for name, rows in runs.items()
    }


def _means(groups: Sequence[Group], cells: Sequence[Cell | None]) -> dict[str, float]:
    """Return the mean of a system's scores by metric, where it has one on every data set of it."""
    found = {}
    for metric in _metrics(groups):
        own = [cell for cell, group in zip(cells, groups, strict=True) if group.metric == metric]
        values = [cell.value for cell in own if cell is not None]
        if len(values) == len(own):
            found[metric] = statistics.fmean(values)
    return found


def _metrics(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(group.metric for group in groups))


def _place(one: Standing) -> tuple[bool, bool, float]:
    missing = any(cell is None or cell.rank is None for cell in one.cells)
    return bool(one.marks), missing, math.inf if one.rank is None else one.rank


def _worded(cell: Cell | None) -> str:
    if cell is None or math.isnan(cell.value):
        return "-"
    rank = "" if cell.rank is None else f" ({cell.rank}{LEVEL if cell.is_level else ''})"
    return f"{cell.value:.4f}{rank}"
