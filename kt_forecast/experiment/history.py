"""What a model gains from long histories: its test rows scored with and without them.

Only the steps with more answers before them than the short history holds are scored, and the very
same steps both times, so that the difference is that of the older answers and of nothing else.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from kt_forecast.data.splits import Role
from kt_forecast.errors import InputError
from kt_forecast.evaluation import Rules, Scores, compare, evaluate
from kt_forecast.experiment import tables
from kt_forecast.experiment.flow import Rows, prepare
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.running import inside, note_read
from kt_forecast.experiment.station import Station
from kt_forecast.experiment.stored import MODEL, RECIPE, SPLIT, Run, find
from kt_forecast.metrics import Estimate
from kt_forecast.sequences.counts import looked_back
from kt_forecast.sequences.interactions import StudentSequences
from kt_forecast.tracer import Fitted

Say = Callable[[str], None]


@dataclass(frozen=True)
class Gain:
    """AUC of one run on the same steps with all, and with the latest answers.

    Attributes:
        run: its name.
        system: name of its system.
        data: name of its data set.
        latest: steps of the short history, the predicted one included.
        steps: scored.
        students: with a scored step.
        whole: AUC from the whole history, with its interval over students.
        short: AUC from the short one.
        gain: the first less the second, students drawn for both at once.
    """

    run: str
    system: str
    data: str
    latest: int
    steps: int
    students: int
    whole: tuple[float, float, float]
    short: tuple[float, float, float]
    gain: tuple[float, float, float]


HEADER = ("run", "data", "latest steps", "scored", "students", "whole history", "latest", "gain")


@dataclass(frozen=True)
class HistoryStudy:
    """What every run gains, by length of the short history."""

    gains: tuple[Gain, ...]

    def tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        """Return title, header and rows."""
        rows: list[tuple[str, ...]] = [
            (
                one.run,
                one.data,
                str(one.latest),
                f"{one.steps:,}",
                f"{one.students:,}",
                _interval(one.whole),
                _interval(one.short),
                _interval(one.gain, "+"),
            )
            for one in self.gains
        ]
        return [("AUC from the whole history, and from its latest steps", HEADER, rows)]

    def to_json(self) -> str:
        """Return everything as JSON."""
        return json.dumps([asdict(one) for one in self.gains], indent=1)


def history_study(
    names: Sequence[str],
    *,
    latest: Sequence[int],
    most: int,
    runs: Path,
    device: str = "auto",
    say: Say = print,
) -> HistoryStudy:
    """Score stored runs of students with whole and with short histories.

    Args:
        names: of the runs.
        latest: steps that each short history holds, the predicted one included.
        most: steps that are scored, of whole students drawn at random; a student may exceed it.
        runs: folder of the runs.
        device: a torch device, or ``auto``.
        say: told what happens.

    Raises:
        InputError: there is no such run, it is not of students, or no student has a longer history.
    """
    gains, station = [], Station()
    for name in names:
        found = find(name, runs)
        if not isinstance(found, Run):
            raise InputError(
                f"run {name!r} forecasts series; accepted are runs of knowledge tracing"
            )
        recipe = Recipe.read(inside(found, RECIPE))
        fitted = Fitted.load(inside(found, MODEL), device=device)
        rows = _rows(recipe, found.folder / SPLIT, station)
        note_read(found, say)
        test = rows.parts[Role.TEST]
        for steps in latest:
            asked = longer_than(test, steps, most=most, seed=recipe.seed)
            say(f"scoring {found.name}: {int(asked.scored.sum()):,} steps, the latest {steps}")
            resampling = {"resamples": recipe.evaluation.bootstraps, "seed": recipe.seed}
            whole = evaluate(fitted, asked, "full", **resampling)
            rules = Rules(description=f"the latest {steps} steps", history=steps)
            short = evaluate(fitted, asked, rules, **resampling)
            gains.append(
                Gain(
                    run=found.name,
                    system=fitted.plan.name,
                    data=rows.interactions.name,
                    latest=steps,
                    steps=whole.n_rows,
                    students=whole.n_students,
                    whole=_auc(whole),
                    short=_auc(short),
                    gain=_plain(compare(whole, short, **resampling)["auc"]),
                )
            )
    return HistoryStudy(tuple(gains))


def _rows(recipe: Recipe, split: Path, station: Station) -> Rows:
    """Return the sequences of a run, made once for runs on the same rows."""
    data = recipe.data.model_dump(mode="json")
    coin = recipe.seed if recipe.coin_flip else None
    return station.once(
        ["rows", data, split.read_text(encoding="utf-8"), coin],
        lambda: prepare(
            recipe, station.once(["table", data], lambda: tables.load(recipe.data)), split
        ),
    )


def longer_than(
    sequences: StudentSequences, latest: int, *, most: int, seed: int
) -> StudentSequences:
    """Return the sequences with only those steps scored that have an older history.

    Args:
        sequences: of test students.
        latest: steps of the short history, the predicted one included.
        most: steps that are scored, of whole students in an order drawn by ``seed``.
        seed: of the order.

    Raises:
        InputError: no step has so long a history.
    """
    begin, stop = looked_back(sequences)
    older = (stop - begin >= latest) & sequences.scored.numpy()
    start = sequences.start.numpy()
    each = np.add.reduceat(older, start[:-1])
    if not each.any():
        raise InputError(
            f"no scored step has {latest} answers before it; accepted is a shorter history"
        )
    order = np.random.default_rng(seed).permutation(len(each))
    before = np.cumsum(each[order]) - each[order]
    chosen = np.zeros(len(each), dtype=bool)
    chosen[order[before < most]] = True
    scored = older & np.repeat(chosen, np.diff(start))
    return replace(sequences, scored=torch.from_numpy(scored))


def _auc(scores: Scores) -> tuple[float, float, float]:
    return _plain(scores.metrics["auc"])


def _plain(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def _interval(values: tuple[float, float, float], sign: str = "") -> str:
    value, low, high = values
    return f"{value:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"
