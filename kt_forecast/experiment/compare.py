"""Systems by data set: the same test rows, paired differences, cost, and what the audits say."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kt_forecast.errors import InputError
from kt_forecast.evaluation import compare as compare_answers
from kt_forecast.evaluation.forecasting import compare as compare_windows
from kt_forecast.experiment.board import Board, joined
from kt_forecast.experiment.board_rows import Difference, Failure, Group
from kt_forecast.experiment.entrants import Asked, gather
from kt_forecast.experiment.running import Say
from kt_forecast.experiment.scoring import AUC, Bench, Place, Scored


def compare(
    names: Sequence[str],
    *,
    runs: Path,
    systems: Sequence[str] = (),
    sets: Sequence[str] = (),
    workers: int = 1,
    device: str = "auto",
    say: Say = print,
) -> Board:
    """Score runs anew, each system of a data set on the same test rows.

    With systems, or several workers, each training has a process of its own, and what fails is
    said on the board; else the first failure ends it all.

    Args:
        names: runs, or recipes; a recipe is trained where no run of the same settings is here. Or
            boards that ``--json`` has written, which are put on one.
        runs: folder of the runs.
        systems: words of the catalogue, or ``all``: each is trained under every recipe.
        sets: keys of the recipes to replace, each as ``a.b=c``.
        workers: trainings at once.
        device: a torch device, or ``auto``.
        say: told what happens.

    Raises:
        InputError: there is no such run, recipe or system; a table is not the one that a run was
            made of; or nothing is left to compare.
        RuntimeError: a model cannot be scored, and nothing else is to go on.
    """
    stored = [name for name in names if name.endswith(".json")]
    if stored:
        if len(stored) < len(names) or systems or sets:
            raise InputError(
                f"{stored[0]} is a finished board; accepted beside it are other boards only"
            )
        return joined([Board.read(Path(name)) for name in stored])
    asked = Asked(names, systems, sets, workers)
    told = gather(asked, runs=runs, device=device, say=say)
    bench = Bench(runs, device, say)
    places: dict[tuple[str, ...], Place] = {}
    groups: dict[tuple[str, ...], list[Scored]] = {}
    for found in told.runs:
        try:
            place, entries = bench.score(found)
        except (InputError, RuntimeError) as error:
            if not asked.goes_on:
                raise
            told.failed.append(Failure(found.record.system.name, found.name, _sentence(error)))
            continue
        places[place.key] = place
        known = {one.row.system for one in groups.setdefault(place.key, [])}
        groups[place.key] += [one for one in entries if one.row.system not in known]
    if not groups:
        why = "; ".join(f"{one.system}: {one.why}" for one in told.failed)
        raise InputError(f"nothing is left to compare ({why})")
    made = tuple(_group(places[key], _labelled(entries)) for key, entries in groups.items())
    return Board(made, tuple(told.failed), tuple(told.notes))


def _sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _labelled(entries: list[Scored]) -> list[Scored]:
    """Name each for the standings: its system, or its run where settings of one system differ.

    A baseline of a system that has a run here is left out, as it is beside that run.
    """
    of_runs = {one.row.what for one in entries if one.row.verdict}
    kept = [one for one in entries if one.row.verdict or one.row.what not in of_runs]
    settings: dict[str, set[str]] = {}
    for one in kept:
        settings.setdefault(one.row.what, set()).add(one.identity)
    return [
        replace(
            one,
            row=replace(
                one.row,
                label=one.row.what if len(settings[one.row.what]) == 1 else one.row.system,
            ),
        )
        for one in kept
    ]


def _group(place: Place, entries: list[Scored]) -> Group:
    """Rank what was scored on the same rows, and hold each against the best that is fair."""
    sign = -1.0 if place.metric == AUC else 1.0
    ranked = sorted(entries, key=lambda one: (math.isnan(v := one.row.score.value), sign * v))
    fair = [one for one in ranked if not one.row.marks] or ranked
    best = fair[0]
    against: Callable[..., Any] = compare_answers if place.metric == AUC else compare_windows
    rows = []
    for one in ranked:
        gap = None
        if one is not best:
            found = against(one.scores, best.scores, **one.settings)[place.metric]
            gap = _difference(found.value, found.low, found.high)
        rows.append(replace(one.row, gap=gap))
    return Group(
        place.title, place.metric, place.metric != AUC, best.row.system, tuple(rows), place.label
    )


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
