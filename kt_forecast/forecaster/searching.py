"""A study of a forecaster's settings: rows that train and rows that validate, and none after."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kt_forecast.data.series.cut import before
from kt_forecast.data.series.splits import SeriesSplit
from kt_forecast.data.series.table import SeriesTable
from kt_forecast.errors import InputError
from kt_forecast.evaluation.forecasting import validation_scores
from kt_forecast.forecaster.fitting import Fitted, fit_plan, valid_origins
from kt_forecast.forecaster.systems import HORIZON, Plan, plan
from kt_forecast.nn.system import System
from kt_forecast.sequences.windows import gather
from kt_forecast.tasks.forecasting import ForecastingConfig
from kt_forecast.training import TrainingConfig, flops_of

if TYPE_CHECKING:
    from kt_forecast.tuning import Found, Problem, Search

FORECASTING, TRAINING, SETTINGS = "forecasting", "training", "settings"
JUDGED_BY = "mse"
"""What a fitted baseline, which has no epochs, is judged by."""


def without_test(table: SeriesTable, split: SeriesSplit) -> tuple[SeriesTable, SeriesSplit]:
    """Return the series up to the end of validation, and the split of what is left.

    A series that begins after that end keeps one row, without a value.
    """
    end = np.maximum(split.valid_end, 1)
    left = before(table, end)
    young = np.flatnonzero(split.valid_end == 0)
    if len(young):
        y, past, future = left.y.copy(), left.past.copy(), left.future.copy()
        first = left.start[young]
        y[first], past[first], future[first] = np.nan, 0.0, 0.0
        left = replace(left, y=y, past=past, future=future)
    return left, replace(split, test_end=split.valid_end, data_hash="")


def problem(
    chosen: Plan,
    table: SeriesTable,
    split: SeriesSplit,
    *,
    device: str = "auto",
    count_flops: bool = False,
) -> "Problem":
    """Return what a study of a plan is about; rows after validation are left out first.

    Args:
        chosen: what trial 0 trains.
        table: the series.
        split: up to which row each series trains, and validates.
        device: a torch device, or ``auto``.
        count_flops: count the operations of a window's forecast in every trial.

    Raises:
        InputError: the plan is of several members.
    """
    from kt_forecast.tuning import Outcome, Problem

    if getattr(chosen, "members", ()):
        raise InputError(
            "a study searches the settings of one model, and this one is the mean of several;"
            " accepted is a model without members"
        )
    table, split = without_test(table, split)
    loop = chosen.training

    def run(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:  # noqa: ANN401
        one = with_sections(chosen, sections, seed)
        fitted = fit_plan(one, table, split, levels=(), callbacks=[tell], device=device)
        if fitted.best_epoch is None or loop is None:
            series = fitted.build(table)
            valid = valid_origins(one, series, split)
            scores = validation_scores(fitted, series, valid, horizon=one.horizon)
            return Outcome(scores[JUDGED_BY])
        best = fitted.epochs[fitted.best_epoch - 1]
        return Outcome(
            best.metrics[loop.metric],
            best_epoch=best.number,
            epochs=len(fitted.epochs),
            parameters=fitted.n_parameters,
            flops=_flops_a_window(fitted, table, split) if count_flops else None,
        )

    def check(sections: Any) -> None:  # noqa: ANN401
        with_sections(chosen, sections, chosen.seed)

    configs: dict[str, Any] = {SETTINGS: chosen.part.config}
    if loop is not None:
        configs |= {FORECASTING: ForecastingConfig, TRAINING: TrainingConfig}
    return Problem(
        system=chosen.name,
        sections=sections_of(chosen),
        configs=configs,
        metric=JUDGED_BY if loop is None else loop.metric,
        direction="min" if loop is None else loop.direction,
        epochs=0 if loop is None else loop.epochs,
        seed=chosen.seed,
        rows=_hash(table, split),
        check=check,
        run=run,
    )


def mean_of(problems: Sequence["Problem"]) -> "Problem":
    """Return the problem of settings that several horizons share: the mean of their scores.

    A trial trains every horizon, and is pruned by the first one alone: what it gave says how far
    behind a trial is, and means over other horizons could not be held beside it.

    Args:
        problems: one for each horizon, of the same system.
    """
    from kt_forecast.tuning import Outcome

    if len(problems) == 1:
        return problems[0]
    first = problems[0]
    horizons = [one.sections[FORECASTING][HORIZON] for one in problems]

    def of(sections: Any, horizon: int) -> Any:  # noqa: ANN401
        task = {**sections[FORECASTING], HORIZON: horizon}
        return {**sections, FORECASTING: task}

    def run(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:  # noqa: ANN401
        latest: list[Any] = []

        def hear(epoch: Any) -> None:  # noqa: ANN401
            latest[:] = [epoch]
            tell(epoch)

        def again(epoch: Any) -> None:  # noqa: ANN401
            del epoch
            # Time may be over; there is nothing new to judge by.
            tell(replace(latest[0], number=first.epochs))

        found = [
            one.run(of(sections, horizon), seed, hear if one is first else again)
            for one, horizon in zip(problems, horizons, strict=True)
        ]
        flops = [one.flops for one in found if one.flops is not None]
        return Outcome(
            sum(one.value for one in found) / len(found),
            best_epoch=found[0].best_epoch,
            epochs=sum(one.epochs for one in found),
            parameters=found[0].parameters,
            flops=sum(flops) if flops else None,
        )

    def check(sections: Any) -> None:  # noqa: ANN401
        for one, horizon in zip(problems, horizons, strict=True):
            one.check(of(sections, horizon))

    rows = hashlib.sha256(
        repr([*zip((one.rows for one in problems), horizons, strict=True)]).encode()
    )
    return replace(first, rows=rows.hexdigest(), check=check, run=run)


def searched(
    chosen: Plan, table: SeriesTable, split: SeriesSplit, search: "Search", *, device: str = "auto"
) -> "tuple[Plan, Found]":
    """Return the best plan that a search finds, and all that it found.

    Raises:
        InputError: nothing can be searched, or nothing could be trained.
    """
    from kt_forecast.tuning import best_of

    about = problem(chosen, table, split, device=device, count_flops=search.counts_flops)
    found, sections = best_of(about, search)
    return with_sections(chosen, sections, chosen.seed), found


def sections_of(chosen: Plan) -> dict[str, dict[str, Any]]:
    """Return every setting of a plan by section."""
    plain = chosen.plain()
    trained = isinstance(chosen.part, System)
    names = (SETTINGS, FORECASTING, TRAINING) if trained else (SETTINGS, FORECASTING)
    return {name: dict(plain[name]) for name in names}


def with_sections(chosen: Plan, sections: Any, seed: int) -> Plan:  # noqa: ANN401
    """Return a plan with other settings.

    Raises:
        InputError: they make no sense together.
    """
    task = dict(sections[FORECASTING])
    if chosen.training is None:
        # The context of a fitted baseline that has one is a setting of its own.
        task = {k: v for k, v in task.items() if k not in sections[SETTINGS]}
    return plan(chosen.name, sections[SETTINGS], task, sections.get(TRAINING), seed=seed)


def _flops_a_window(fitted: Fitted, table: SeriesTable, split: SeriesSplit) -> float:
    """Return the operations of a forecast of one window, of the first that validates."""
    series = fitted.build(table)
    valid = valid_origins(fitted.plan, series, split)
    first = np.zeros(1, dtype=np.int64)
    batch = gather(series, valid, first, context=fitted.context, horizon=fitted.horizon)
    return flops_of(lambda: fitted.model.predict(batch.to(fitted.device)))


def _hash(table: SeriesTable, split: SeriesSplit) -> str:
    """Return SHA-256 of all that training and validation read."""
    found = hashlib.sha256(repr((table.ids, table.frequency)).encode())
    borders = (table.first, table.start, split.train_end, split.valid_end)
    for array in (*borders, table.y, table.past, table.future, table.static):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
