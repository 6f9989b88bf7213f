"""Runs scored on their test rows; what several share is made once, what was found is kept."""

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from kt_forecast import metrics
from kt_forecast.data.splits import Role
from kt_forecast.evaluation import Scores, evaluate
from kt_forecast.evaluation.forecasting import ForecastScores
from kt_forecast.experiment import facts, flow, forecasting, series, tables
from kt_forecast.experiment.board_rows import Interval, Row
from kt_forecast.experiment.facts import PEAK
from kt_forecast.experiment.ranking import AUC, MSE, Place
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.recipe_forecast import ForecastRecipe
from kt_forecast.experiment.running import Say, hashed, inside, is_early, note_read, put
from kt_forecast.experiment.station import Station
from kt_forecast.experiment.stored import MODEL, RECIPE, RECORD, SPLIT, ForecastRun, Run
from kt_forecast.forecaster import Fitted as Forecasting
from kt_forecast.metrics.forecasting import samples as samples_of_sums
from kt_forecast.nn.system import System
from kt_forecast.schema import ROW, STUDENT
from kt_forecast.sequences.build import build
from kt_forecast.sequences.windows import gather, origins
from kt_forecast.tracer import Fitted as Tracing
from kt_forecast.tracer.streaming import Stream, steps_of

STREAMED = 40
"""Steps, or windows, by which latency is measured."""

SEED = 0
"""Of the draws behind differences: the same for all that is compared, whatever their own seeds."""

SCORES = "compare/scores"
"""Folder of what was found, among the runs."""

WINDOW_ONLY = "window only"
LEAKS = "LEAKS"


@dataclass(frozen=True)
class Scored:
    """A run and its baselines on the same test rows.

    Attributes:
        place: where they are compared.
        rows: the run first; none has a difference yet.
    """

    place: Place
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Self:
        """Return what `asdict` has made plain."""
        place = plain["place"]
        return cls(
            Place(**place | {"key": tuple(place["key"])}),
            tuple(Row.read(row) for row in plain["rows"]),
        )


def kept(found: Run | ForecastRun, runs: Path) -> Scored | None:
    """Return what was found of a run before, by this version; None where it is not here."""
    path = _home(found, runs)
    if not path.is_file():
        return None
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return Scored.read(plain["scored"]) if plain["key"] == _key(found) else None
    except (ValueError, KeyError, TypeError):
        return None


def _home(found: Run | ForecastRun, runs: Path) -> Path:
    return runs / SCORES / f"{found.name}.json"


def _key(found: Run | ForecastRun) -> str:
    """Return a hash of all that decides what is found: the run as it was recorded, and the code."""
    said = hashlib.sha256(inside(found, RECORD).read_bytes()).hexdigest()
    return hashed([said, facts.code()])


@dataclass
class Bench:
    """Where runs are scored.

    Attributes:
        runs: folder of the runs.
        device: a torch device, or ``auto``.
        say: told what happens.
        station: what runs of this process have made.
    """

    runs: Path
    device: str
    say: Say
    station: Station = field(default_factory=Station)

    def score(self, found: Run | ForecastRun) -> Scored:
        """Return the run and its baselines, scored where they can be compared.

        What was found before is taken as it is; what the run has left in memory is not read again.

        Raises:
            InputError: its table is not the one it was made of.
        """
        if (before := kept(found, self.runs)) is not None:
            return before
        self.say(f"scoring {found.name}")
        one = self._of_series(found) if isinstance(found, ForecastRun) else self._of_students(found)
        path = _home(found, self.runs)
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, json.dumps({"key": _key(found), "scored": asdict(one)}))
        return one

    def _of_students(self, found: Run) -> Scored:
        recipe = Recipe.read(inside(found, RECIPE))
        split, data = found.folder / SPLIT, recipe.data.model_dump(mode="json")
        once, left = self.station.once, self.station.left_by(found.folder)
        coin = recipe.seed if recipe.coin_flip else None
        rows: flow.Rows = (
            left.rows
            if left is not None
            else once(
                ["rows", data, split.read_text(encoding="utf-8"), coin],
                lambda: flow.prepare(
                    recipe, once(["table", data], lambda: tables.load(recipe.data)), split
                ),
            )
        )
        fitted: Tracing = (
            left.fitted
            if left is not None
            else Tracing.load(inside(found, MODEL), device=self.device)
        )
        _, beside = flow.plans(recipe)
        protocol, resamples = recipe.evaluation.protocols[0], recipe.evaluation.bootstraps
        settings = {"resamples": resamples, "seed": recipe.seed}
        if left is None:
            note_read(found, self.say)
            scores = evaluate(fitted, rows.parts[Role.TEST], protocol, **settings)
        else:
            scores = left.scores[fitted.plan.name]

        def row(one: Tracing, scores: Scores, mine: Run | None) -> Row:
            marks = _marks(mine, one.plan.part, recipe.history) if mine is not None else ()
            drawn = metrics.samples(scores.answers, names=(AUC,), resamples=resamples, seed=SEED)
            latency = _streaming_ms(one, rows)
            return _row(one, mine, scores.metrics[AUC], latency, marks, drawn[AUC])

        def of_baseline(chosen: Any) -> Row:  # noqa: ANN401
            made = once(
                ["beside", rows.key, chosen.plain()],
                lambda: flow.fit_all_beside(
                    recipe, [chosen], rows, self.runs, fitted.device, self.say
                )[chosen.name],
            )
            scores = flow.score_beside(recipe, made, rows, protocol, self.station)
            return row(made, scores, None)

        rules = [rows.key, protocol, settings]
        found_rows = [row(fitted, scores, found)]
        found_rows += [
            once(["row", rules, one.plain()], partial(of_baseline, one)) for one in beside
        ]
        name, n = rows.interactions.name, scores.n_rows
        flipped = ", fair coins for responses" if recipe.coin_flip else ""
        title = f"{name}, {protocol}: {n:,} answers of test students{flipped}"
        asked = _hash_of([scores.predictions[ROW].to_numpy(), scores.answers.response])
        key = (name, rows.interactions.data_hash, rows.roles.role_hash, protocol, flipped, asked)
        return Scored(Place(key, title, name, AUC), tuple(found_rows))

    def _of_series(self, found: ForecastRun) -> Scored:
        recipe = ForecastRecipe.read(inside(found, RECIPE))
        split, data = inside(found, SPLIT), recipe.data.model_dump(mode="json")
        once, left = self.station.once, self.station.left_by(found.folder)
        fitted: Forecasting = (
            left.fitted
            if left is not None
            else Forecasting.load(inside(found, MODEL), device=self.device)
        )
        levels = list(recipe.evaluation.levels)
        rows: forecasting.SeriesRows = (
            left.rows
            if left is not None
            else once(
                ["rows", data, split.read_text(encoding="utf-8"), levels],
                lambda: forecasting.prepare(
                    recipe,
                    once(["table", data], lambda: series.load(recipe.data)),
                    fitted.horizon,
                    split,
                ),
            )
        )
        _, beside = forecasting.plans(recipe)
        protocol, resamples = recipe.evaluation.protocols[0], recipe.evaluation.bootstraps
        if left is None:
            note_read(found, self.say)
            rules = forecasting.rules_of(recipe, protocol, fitted.device)
            scores = forecasting.scored(fitted, rows, rules)
        else:
            scores = left.scores[fitted.plan.name]

        def row(one: Forecasting, scores: ForecastScores, mine: ForecastRun | None) -> Row:
            marks = (LEAKS,) if mine is not None and mine.leaks else ()
            drawn = samples_of_sums(scores.sums, MSE, resamples=resamples, seed=SEED)
            return _row(one, mine, scores.metrics[MSE], _forecast_ms(one, rows), marks, drawn)

        def of_baseline(chosen: Any) -> Row:  # noqa: ANN401
            made = once(
                ["beside", rows.key, chosen.plain()],
                lambda: forecasting.fit_all_beside(
                    recipe, [chosen], rows, self.runs, fitted.device, self.say
                )[chosen.name],
            )
            scores = forecasting.score_beside(recipe, made, rows, protocol, self.station)
            return row(made, scores, None)

        same = ["row", rows.key, protocol, resamples, recipe.seed]
        found_rows = [row(fitted, scores, found)]
        found_rows += [once([*same, one.plain()], partial(of_baseline, one)) for one in beside]
        name, ahead = rows.table.name, str(fitted.horizon)
        title = f"{name}, {protocol}, {ahead} steps ahead: {scores.n_windows:,} windows"
        sums = scores.sums
        counted = [part[n] for part in (sums.by_moment, sums.by_series) for n in ("windows", "n")]
        asked = _hash_of([sums.moment, *counted])
        key = (name, rows.table.data_hash, rows.split.split_hash, protocol, ahead, asked)
        return Scored(Place(key, title, f"{name} {ahead}", MSE), tuple(found_rows))


def _row(
    one: Any,  # noqa: ANN401
    mine: Run | ForecastRun | None,
    value: Any,  # noqa: ANN401
    latency: float,
    marks: tuple[str, ...],
    draws: Float[np.ndarray, " draw"],
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
        early=early(one),
        draws=tuple(draws.tolist()),
        identity=_identity(one),
    )


def early(one: Any) -> str:  # noqa: ANN401
    """Return how far a training came that was ended by time, in words; nothing of all others."""
    loop = one.plan.training
    if not is_early(loop, len(one.epochs), one.best_epoch):
        return ""
    return f"{len(one.epochs)} of {loop.epochs} epochs"


def _hash_of(arrays: Sequence[Any]) -> str:
    """Return a hash of which rows were scored, and of what stood there."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


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
    student = rows.interactions.frame[STUDENT].to_numpy()
    names, counts = np.unique(student[train], return_counts=True)
    longest = train & (student == names[counts.argmax()])
    steps = steps_of(build(rows.interactions, fitted.vocabulary, rows=longest))[:STREAMED]
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
