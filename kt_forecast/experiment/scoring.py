"""Runs scored anew on their test rows; what several share is made once."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from kt_forecast.data.splits import Role
from kt_forecast.evaluation import evaluate
from kt_forecast.evaluation.forecasting import ForecastRules
from kt_forecast.experiment import flow, forecasting, series, tables
from kt_forecast.experiment.board_rows import Interval, Row
from kt_forecast.experiment.facts import PEAK
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.recipe_forecast import ForecastRecipe
from kt_forecast.experiment.running import Say, hashed, inside, note_read
from kt_forecast.experiment.stored import MODEL, RECIPE, SPLIT, ForecastRun, Run
from kt_forecast.forecaster import Fitted as Forecasting
from kt_forecast.nn.system import System
from kt_forecast.sequences.build import build
from kt_forecast.sequences.windows import gather, origins
from kt_forecast.tracer import Fitted as Tracing
from kt_forecast.tracer.streaming import Stream, steps_of

T = TypeVar("T")

AUC, MSE = "auc", "mse"
STREAMED = 40
"""Steps, or windows, by which latency is measured."""

WINDOW_ONLY = "window only"
LEAKS = "LEAKS"


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


@dataclass
class Scored:
    """One system on the test rows of a place.

    Attributes:
        row: what is shown, without the difference.
        scores: what the difference is made of.
        identity: equal for the same system under the same settings, whatever the seed.
        settings: of the bootstrap.
    """

    row: Row
    scores: Any
    identity: str
    settings: dict[str, int] = field(default_factory=dict)


@dataclass
class Bench:
    """Where runs are scored.

    Attributes:
        runs: folder of the runs.
        device: a torch device, or ``auto``.
        say: told what happens.
    """

    runs: Path
    device: str
    say: Say
    _made: dict[str, Any] = field(default_factory=dict)

    def score(self, found: Run | ForecastRun) -> tuple[Place, list[Scored]]:
        """Return where a run stands, and the run and its baselines scored there.

        Raises:
            InputError: its table is not the one it was made of.
        """
        self.say(f"scoring {found.name}")
        if isinstance(found, ForecastRun):
            return self._of_series(found)
        return self._of_students(found)

    def _once(self, key: list[Any], make: Callable[[], T]) -> T:
        """Return what was made before of the same things."""
        name = hashed(key)
        if name not in self._made:
            self._made[name] = make()
        found: T = self._made[name]
        return found

    def _of_students(self, found: Run) -> tuple[Place, list[Scored]]:
        recipe = Recipe.read(inside(found, RECIPE))
        fitted = Tracing.load(inside(found, MODEL), device=self.device)
        split, data = found.folder / SPLIT, recipe.data.model_dump(mode="json")
        coin = recipe.seed if recipe.coin_flip else None
        rows = self._once(
            ["rows", data, split.read_text(encoding="utf-8"), coin],
            lambda: flow.prepare(
                recipe, self._once(["table", data], lambda: tables.load(recipe.data)), split
            ),
        )
        _, beside = flow.plans(recipe)
        note_read(found, self.say)
        protocol = recipe.evaluation.protocols[0]
        settings = {"resamples": recipe.evaluation.bootstraps, "seed": recipe.seed}
        rules = [rows.key, protocol, settings]

        def scored(one: Tracing, mine: Run | None) -> Scored:
            scores = evaluate(one, rows.parts[Role.TEST], protocol, **settings)
            marks = _marks(mine, one.plan.part, recipe.history) if mine is not None else ()
            row = self._row(one, mine, scores.metrics[AUC], _streaming_ms(one, rows), marks)
            return Scored(row, scores, _identity(one), settings)

        def of_baseline(chosen: Any) -> Scored:  # noqa: ANN401
            made = flow.fit_all_beside(recipe, [chosen], rows, self.runs, fitted.device, self.say)
            return scored(made[chosen.name], None)

        entries = [scored(fitted, found)]
        entries += [
            self._once(["beside", rules, one.plain()], partial(of_baseline, one)) for one in beside
        ]
        name, n = rows.interactions.name, entries[0].scores.n_rows
        flipped = ", fair coins for responses" if recipe.coin_flip else ""
        title = f"{name}, {protocol}: {n:,} answers of test students{flipped}"
        facts = (rows.interactions.data_hash, rows.roles.role_hash, protocol, flipped)
        return Place((name, *facts), title, name, AUC), entries

    def _of_series(self, found: ForecastRun) -> tuple[Place, list[Scored]]:
        recipe = ForecastRecipe.read(inside(found, RECIPE))
        fitted = Forecasting.load(inside(found, MODEL), device=self.device)
        split, data = inside(found, SPLIT), recipe.data.model_dump(mode="json")
        levels = list(recipe.evaluation.levels)
        rows = self._once(
            ["series", data, split.read_text(encoding="utf-8"), levels],
            lambda: forecasting.prepare(
                recipe,
                self._once(["table", data], lambda: series.load(recipe.data)),
                fitted.horizon,
                split,
            ),
        )
        _, beside = forecasting.plans(recipe)
        note_read(found, self.say)
        protocol = recipe.evaluation.protocols[0]
        settings = {"resamples": recipe.evaluation.bootstraps, "seed": recipe.seed}
        rules = ForecastRules(
            protocol=protocol,
            resamples=recipe.evaluation.bootstraps,
            seed=recipe.seed,
            device=fitted.device,
        )

        def scored(one: Forecasting, mine: ForecastRun | None) -> Scored:
            scores = forecasting.scored(one, rows, rules)
            marks = (LEAKS,) if mine is not None and mine.leaks else ()
            row = self._row(one, mine, scores.metrics[MSE], _forecast_ms(one, rows), marks)
            return Scored(row, scores, _identity(one), settings)

        def of_baseline(chosen: Any) -> Scored:  # noqa: ANN401
            made = forecasting.fit_all_beside(
                recipe, [chosen], rows, self.runs, fitted.device, self.say
            )
            return scored(made[chosen.name], None)

        entries = [scored(fitted, found)]
        entries += [
            self._once(
                ["beside", rows.key, protocol, settings, one.plain()],
                partial(of_baseline, one),
            )
            for one in beside
        ]
        name, ahead = rows.table.name, str(fitted.horizon)
        windows = entries[0].scores.n_windows
        title = f"{name}, {protocol}, {ahead} steps ahead: {windows:,} windows"
        key = (name, rows.table.data_hash, rows.split.split_hash, protocol, ahead)
        return Place(key, title, f"{name} {ahead}", MSE), entries

    def _row(
        self,
        one: Any,  # noqa: ANN401
        mine: Run | ForecastRun | None,
        value: Any,  # noqa: ANN401
        latency: float,
        marks: tuple[str, ...],
    ) -> Row:
        verdict, memory, system = "", "", one.plan.name
        if mine is not None:
            verdict = mine.record.verdict.verdict if mine.record.verdict is not None else "none"
            memory = mine.record.environment.get(PEAK, "")
            system = mine.name
        part = one.plan.part
        return Row(
            system=system,
            what=one.plan.name,
            score=Interval(value.value, value.low, value.high),
            parameters=one.n_parameters,
            seconds=sum(e.seconds for e in one.epochs) if one.epochs else None,
            latency=latency,
            memory=memory,
            causality=part.promises.causality if isinstance(part, System) else "by rule",
            verdict=verdict,
            marks=marks,
        )


def _identity(one: Any) -> str:  # noqa: ANN401
    """Return a hash of all settings but seeds."""
    return hashed(_unseeded(one.plan.plain()))


def _unseeded(plain: Any) -> Any:  # noqa: ANN401
    if isinstance(plain, dict):
        return {key: _unseeded(part) for key, part in plain.items() if key != "seed"}
    return [_unseeded(part) for part in plain] if isinstance(plain, list) else plain


def _marks(found: Run, part: Any, history: int | None) -> tuple[str, ...]:  # noqa: ANN401
    """Return what makes a comparison on whole histories unfair."""
    marks = [LEAKS] if found.leaks else []
    if isinstance(part, System) and (part.promises.causality == "window" or history):
        marks.append(WINDOW_ONLY)
    return tuple(marks)


def _streaming_ms(fitted: Tracing, rows: flow.Rows) -> float:
    """Return the median time of an answer and the question after it, of one student."""
    train = rows.roles.visible(Role.TRAIN)
    sequences = build(rows.interactions, fitted.vocabulary, rows=train)
    longest = int((sequences.start[1:] - sequences.start[:-1]).argmax())
    low = int(sequences.start[longest])
    steps = steps_of(sequences)[low : min(low + STREAMED, int(sequences.start[longest + 1]))]
    stream = Stream(fitted)
    memory = stream._memory  # noqa: SLF001 - without the look-up of names, which all share
    taken = []
    for step in steps:
        before = perf_counter()
        memory.ask([step])
        memory.take(step)
        taken.append(perf_counter() - before)
    return 1000 * statistics.median(taken)


def _forecast_ms(fitted: Forecasting, rows: forecasting.SeriesRows) -> float:
    """Return the median time of the forecast of one window."""
    measured = rows.read_by(fitted)
    low, high = 0 * rows.split.train_end, rows.split.train_end
    chosen = origins(measured, low, high, horizon=fitted.horizon, mixing=fitted.plan.mixing)
    shape = {"context": fitted.context, "horizon": fitted.horizon}
    taken = []
    for number in np.linspace(0, len(chosen) - 1, STREAMED // 2).astype(np.int64):
        batch = gather(measured, chosen, np.array([number]), **shape).to(fitted.device)
        before = perf_counter()
        fitted.predict(batch)
        taken.append(perf_counter() - before)
    return 1000 * statistics.median(taken)
