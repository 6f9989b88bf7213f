"""Systems ranked on the same test rows, of one comparison or of several boards."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kt_forecast.errors import InputError
from kt_forecast.experiment.board import Board
from kt_forecast.experiment.board_rows import Difference, Group, Row
from kt_forecast.metrics import estimate

AUC, MSE = "auc", "mse"


@dataclass(frozen=True)
class Place:
    """Where systems are compared: the same rows, scored alike.

    Attributes:
        key: equal for what may be compared.
        title: data set, protocol, size.
        label: data set, and steps ahead, in short.
        metric: of the scores.
    """

    key: tuple[str, ...]
    title: str
    label: str
    metric: str


def grouped(scored: Iterable[tuple[Place, Sequence[Row]]]) -> tuple[Group, ...]:
    """Return groups of what was scored on the same rows; of runs of one name the first."""
    places: dict[tuple[str, ...], Place] = {}
    rows: dict[tuple[str, ...], list[Row]] = {}
    for place, some in scored:
        places.setdefault(place.key, place)
        known = {row.system for row in rows.setdefault(place.key, [])}
        rows[place.key] += [row for row in some if row.system not in known]
    return tuple(_group(places[key], _labelled(some)) for key, some in rows.items())


def joined(boards: Sequence[Board]) -> Board:
    """Return one board of several: what they scored on the same rows is ranked anew.

    Of a run that several hold, one that time has not ended is taken, else the first.

    Raises:
        InputError: two of them hold a data set of one title, and not surely the same rows of it.
    """
    alike: dict[str, list[Group]] = {}
    for board in boards:
        for group in board.groups:
            alike.setdefault(group.title, []).append(group)
    made = tuple(_merged(some) if len(some) > 1 else some[0] for some in alike.values())
    here = {row.system for group in made for row in group.rows}
    missing = {one.under: one for board in boards for one in board.failed if one.under not in here}
    said = dict.fromkeys(note for board in boards for note in board.said)
    return Board(made, tuple(missing.values()), tuple(said))


def _merged(some: list[Group]) -> Group:
    """Return one group of several that hold the same rows.

    Raises:
        InputError: that they do is not known.
    """
    one = some[0]
    if not one.key or any(group.key != one.key for group in some):
        raise InputError(
            f"{one.title!r} is on two of the boards, not surely with the same rows; accepted are"
            " boards of the same split that this version's compare --json has written"
        )
    rows = sorted((row for group in some for row in group.rows), key=lambda row: bool(row.early))
    return grouped((Place(one.key, one.title, one.label, one.metric), [row]) for row in rows)[0]


def _labelled(rows: list[Row]) -> list[Row]:
    """Name each for the standings: its system, or its run where settings of one system differ.

    A baseline of a system that has a run here is left out, as it is beside that run.
    """
    of_runs = {row.what for row in rows if row.verdict}
    kept = [row for row in rows if row.verdict or row.what not in of_runs]
    settings: dict[str, set[str]] = {}
    for row in kept:
        settings.setdefault(row.what, set()).add(row.identity)
    return [
        replace(row, label=row.what if len(settings[row.what]) == 1 else row.system) for row in kept
    ]


def _group(place: Place, rows: list[Row]) -> Group:
    """Rank what was scored on the same rows, and hold each against the best that is fair."""
    lower = place.metric != AUC
    sign = 1.0 if lower else -1.0
    ranked = sorted(rows, key=lambda row: (math.isnan(v := row.score.value), sign * v))
    best = next((row for row in ranked if not row.marks), ranked[0])
    held = tuple(replace(row, gap=None if row is best else _gap(row, best)) for row in ranked)
    return Group(place.title, place.metric, lower, best.system, held, place.label, place.key)


def _gap(row: Row, best: Row) -> Difference:
    """Return the difference on the same draws; where one has more of them, on those of both."""
    both = min(len(row.draws), len(best.draws))
    value = row.score.value - best.score.value
    if not both:
        return Difference(value, math.nan, math.nan, math.nan)
    sample = np.subtract(row.draws[:both], best.draws[:both], dtype=np.float64)
    found = estimate(value, sample)
    return _difference(found.value, found.low, found.high)


def _difference(value: float, low: float, high: float) -> Difference:
    """Return a paired difference with a two-sided p-value.

    The spread is that of the draws on the side of zero, so that p and the interval agree.
    """
    normal = statistics.NormalDist()
    towards = value - low if value > 0 else high - value
    if math.isnan(towards):
        return Difference(value, low, high, math.nan)
    deviations = abs(value) / towards * normal.inv_cdf(0.975) if towards > 0 else math.inf
    p = 2 * (1 - normal.cdf(deviations)) if value else 1.0
    return Difference(value, low, high, p)
