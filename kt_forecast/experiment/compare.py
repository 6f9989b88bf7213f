"""Systems by data set: the same test rows, paired differences, cost, and what the audits say."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from kt_forecast.data.splits import Role
from kt_forecast.errors import InputError
from kt_forecast.evaluation import compare as compare_answers
from kt_forecast.evaluation.forecasting import ForecastRules
from kt_forecast.evaluation.forecasting import compare as compare_windows
from kt_forecast.experiment import flow, forecasting, series, tables
from kt_forecast.experiment.board import Board, Difference, Group, Interval, Row
from kt_forecast.experiment.facts import PEAK
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.recipe_base import read_toml, shipped
from kt_forecast.experiment.recipe_forecast import ForecastRecipe
from kt_forecast.experiment.running import Say, inside, note_read
from kt_forecast.experiment.stored import MODEL, RECIPE, RUNS, SPLIT, ForecastRun, Run, find
from kt_forecast.experiment.which import AnyRecipe, read_recipe, run
from kt_forecast.forecaster import Fitted as Forecasting
from kt_forecast.nn.system import System
from kt_forecast.sequences.build import build
from kt_forecast.sequences.windows import gather, origins
from kt_forecast.tracer import Fitted as Tracing
from kt_forecast.tracer.streaming import Stream, steps_of

AUC, MSE = "auc", "mse"
STREAMED = 40
"""Steps, or windows, by which latency is measured."""

WINDOW_ONLY = "window only"
LEAKS = "LEAKS"

AnyRun = Run | ForecastRun


@dataclass
class Scored:
    """One system on the test rows of a group.

    Attributes:
        row: what is shown, without the difference.
        scores: what the difference is made of.
        settings: of the bootstrap.
    """

    row: Row
    scores: Any
    settings: dict[str, int] = field(default_factory=dict)


def compare(names: Sequence[str], *, runs: Path, device: str = "auto", say: Say = print) -> Board:
    """Score runs anew, each system of a data set on the same test rows.

    Args:
        names: runs, or recipes; a recipe is trained where no run of the same settings is here.
        runs: folder of the runs.
        device: a torch device, or ``auto``.
        say: told what happens.

    Raises:
        InputError: there is no such run or recipe, or its table is not the one it was made of.
    """
    groups: dict[tuple[str, ...], list[Scored]] = {}
    titles: dict[tuple[str, ...], tuple[str, str]] = {}
    for name in names:
        for found in _runs_of(name, runs, device, say):
            say(f"scoring {found.name}")
            key, title, metric, entries = _entries(found, runs, device, say)
            titles[key] = (title, metric)
            known = {one.row.system for one in groups.setdefault(key, [])}
            groups[key] += [one for one in entries if one.row.system not in known]
    return Board(tuple(_group(*titles[key], entries) for key, entries in groups.items()))


def _group(title: str, metric: str, entries: list[Scored]) -> Group:
    """Rank what was scored on the same rows, and hold each against the best that is fair."""
    sign = -1.0 if metric == AUC else 1.0
    ranked = sorted(entries, key=lambda one: sign * one.row.score.value)
    fair = [one for one in ranked if not one.row.marks] or ranked
    best = fair[0]
    against: Callable[..., Any] = compare_answers if metric == AUC else compare_windows
    rows = []
    for one in ranked:
        gap = None
        if one is not best:
            found = against(one.scores, best.scores, **one.settings)[metric]
            gap = _difference(found.value, found.low, found.high)
        rows.append(replace(one.row, gap=gap))
    return Group(title, metric, metric != AUC, best.row.system, tuple(rows))


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


def _runs_of(name: str, runs: Path, device: str, say: Say) -> list[AnyRun]:
    """Return the run of that name, or those of a recipe, trained where they are not here.

    Raises:
        InputError: there is neither a run nor a recipe of that name.
    """
    try:
        return [find(name, runs)]
    except InputError as error:
        said = str(error)
    try:
        recipe = read_recipe(shipped(name))
    except InputError:
        raise InputError(f"{said}; nor is there a recipe of that name") from None
    parts: tuple[AnyRecipe, ...] = (recipe,)
    if isinstance(recipe, ForecastRecipe) and (recipe.horizons or recipe.seeds):
        parts = recipe.each(recipe.title())
    found = []
    for part in parts:
        one = _of_same_settings(part, runs) or run(part, runs=runs, device=device, say=say)
        if one is not None:
            found.append(one)
    return found


def _of_same_settings(recipe: AnyRecipe, runs: Path) -> AnyRun | None:
    """Return a finished run of a recipe; what the run has written out counts as the same."""
    for path in sorted((runs / RUNS).glob(f"*/{RECIPE}")):
        plain = read_toml(path)
        if plain.get("task") != recipe.task:
            continue
        kept = recipe.parse(plain, str(path)).plain()
        wanted = type(recipe).parse(_plain(recipe), "compare").plain()
        if recipe.task == "forecasting" and "split" not in wanted:
            kept.pop("split", None)
        kept["name"] = wanted.get("name", "")
        if kept == wanted:
            return find(str(path.parent), runs)
    return None


def _plain(recipe: AnyRecipe) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(recipe.to_toml())


def _entries(
    found: AnyRun, runs: Path, device: str, say: Say
) -> tuple[tuple[str, ...], str, str, list[Scored]]:
    """Return the group of a run, and the run and its baselines scored on their test rows."""
    if isinstance(found, ForecastRun):
        return _of_series(found, runs, device, say)
    return _of_students(found, runs, device, say)


def _of_students(
    found: Run, runs: Path, device: str, say: Say
) -> tuple[tuple[str, ...], str, str, list[Scored]]:
    recipe = Recipe.read(inside(found, RECIPE))
    _, beside = flow.plans(recipe)
    fitted = Tracing.load(inside(found, MODEL), device=device)
    rows = flow.prepare(recipe, tables.load(recipe.data), found.folder / SPLIT)
    others = flow.fit_all_beside(recipe, beside, rows, runs, fitted.device, say)
    note_read(found, say)
    protocol = recipe.evaluation.protocols[0]
    settings = {"resamples": recipe.evaluation.bootstraps, "seed": recipe.seed}
    _, scores = flow.score(recipe, fitted, others, rows, (protocol,))
    entries = []
    for name, one in {fitted.plan.name: fitted, **others}.items():
        mine = one is fitted
        value = scores[name].metrics[AUC]
        row = Row(
            system=found.name if mine else name,
            what=name,
            score=Interval(value.value, value.low, value.high),
            parameters=one.n_parameters,
            seconds=sum(e.seconds for e in one.epochs) if one.epochs else None,
            latency=_streaming_ms(one, rows),
            memory=found.record.environment.get(PEAK, "") if mine else "",
            causality=_causality(one.plan.part),
            verdict=_verdict(found) if mine else "",
            marks=_marks(found, one.plan.part, recipe.history) if mine else (),
        )
        entries.append(Scored(row, scores[name], settings))
    name, n = rows.interactions.name, entries[0].scores.n_rows
    coin = ", fair coins for responses" if recipe.coin_flip else ""
    title = f"{name}, {protocol}: {n:,} answers of test students{coin}"
    key = (name, rows.interactions.data_hash, rows.roles.role_hash, protocol, coin)
    return key, title, AUC, entries


def _of_series(
    found: ForecastRun, runs: Path, device: str, say: Say
) -> tuple[tuple[str, ...], str, str, list[Scored]]:
    recipe = ForecastRecipe.read(inside(found, RECIPE))
    fitted = Forecasting.load(inside(found, MODEL), device=device)
    _, beside = forecasting.plans(recipe)
    rows = forecasting.prepare(
        recipe, series.load(recipe.data), fitted.horizon, inside(found, SPLIT)
    )
    others = forecasting.fit_all_beside(recipe, beside, rows, runs, fitted.device, say)
    note_read(found, say)
    protocol = recipe.evaluation.protocols[0]
    settings = {"resamples": recipe.evaluation.bootstraps, "seed": recipe.seed}
    rules = ForecastRules(
        protocol=protocol,
        resamples=recipe.evaluation.bootstraps,
        seed=recipe.seed,
        device=fitted.device,
    )
    entries = []
    for name, one in {fitted.plan.name: fitted, **others}.items():
        mine = one is fitted
        scores = forecasting.scored(one, rows, rules)
        value = scores.metrics[MSE]
        row = Row(
            system=found.name if mine else name,
            what=name,
            score=Interval(value.value, value.low, value.high),
            parameters=one.n_parameters,
            seconds=sum(e.seconds for e in one.epochs) if one.epochs else None,
            latency=_forecast_ms(one, rows),
            memory=found.record.environment.get(PEAK, "") if mine else "",
            causality=_causality(one.plan.part),
            verdict=_verdict(found) if mine else "",
            marks=(LEAKS,) if mine and found.leaks else (),
        )
        entries.append(Scored(row, scores, settings))
    name = rows.table.name
    title = (
        f"{name}, {protocol}, {fitted.horizon} steps ahead: {entries[0].scores.n_windows:,} windows"
    )
    key = (name, rows.table.data_hash, rows.split.split_hash, protocol, str(fitted.horizon))
    return key, title, MSE, entries


def _causality(part: Any) -> str:  # noqa: ANN401
    return part.promises.causality if isinstance(part, System) else "by rule"


def _verdict(found: AnyRun) -> str:
    return found.record.verdict.verdict if found.record.verdict is not None else "none"


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
