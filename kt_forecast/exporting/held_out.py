"""Rows that taught a model nothing, to tell what a smaller file of it costs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from kt_forecast.data.splits import Role
from kt_forecast.errors import InputError
from kt_forecast.experiment.running import inside
from kt_forecast.experiment.stored import RECIPE, SPLIT, ForecastRun, Run, find
from kt_forecast.exporting.forecasting import REAL
from kt_forecast.exporting.forms import Form, Program
from kt_forecast.forecaster.fitting import Fitted as FittedForecaster
from kt_forecast.forecaster.fitting import valid_origins
from kt_forecast.metrics import auc
from kt_forecast.sequences.batching import Batches, windows
from kt_forecast.sequences.build import build
from kt_forecast.sequences.collect import Collector
from kt_forecast.sequences.interactions import StudentSequences
from kt_forecast.sequences.series import SeriesSet
from kt_forecast.sequences.windows import Origins, gather, origins
from kt_forecast.tracer.fitting import Fitted as FittedTracer

MOST_WINDOWS = 2048
"""Windows of series that are scored at most, evenly spread."""

WINDOWS_AT_ONCE = 256


class HeldOutStudents:
    """Students that a tracer is scored on.

    Args:
        fitted: the tracer.
        sequences: in its vocabulary.
        length: the only length that the form takes; None for any.
    """

    metric = "AUC"

    def __init__(
        self, fitted: FittedTracer, sequences: StudentSequences, length: int | None
    ) -> None:
        self.sequences = sequences
        history = fitted.plan.history
        self.history = min(filter(None, (history, length)), default=None)
        self.length = length

    def score(self, program: Program) -> float:
        """Return the area under the curve of a window form."""
        collected = Collector(self.sequences.scored.numpy())
        for batch in self._batches():
            steps = batch.shape[1]
            given = [batch.question, batch.concepts, batch.response, batch.event, batch.seconds]
            given += [batch.real, *([batch.extras] if batch.extras.shape[2] else [])]
            if self.length is not None:
                given = [_wider(one, self.length) for one in given]
            collected.add(batch, program(given)[0][:, :steps].double())
        p_correct = collected.result()
        counts = self.sequences.scored.numpy() & ~np.isnan(p_correct)
        return auc(self.sequences.response.numpy()[counts], p_correct[counts])

    def _batches(self) -> Batches:
        return windows(self.sequences, self.history, "steps")


def _wider(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """Return steps with padding on the right."""
    missing = length - tensor.shape[1]
    return torch.cat([tensor, tensor.new_zeros(len(tensor), missing, *tensor.shape[2:])], 1)


class HeldOutSeries:
    """Windows of series that a forecaster is scored on.

    Args:
        fitted: the forecaster.
        series: measured as those that trained.
        chosen: the windows.
        form: what it is asked as.
    """

    metric = "MSE"

    def __init__(
        self, fitted: FittedForecaster, series: SeriesSet, chosen: Origins, form: Form
    ) -> None:
        self.fitted = fitted
        self.series = series
        self.chosen = chosen
        self.inputs = tuple(form.inputs)

    def score(self, program: Program) -> float:
        """Return the mean squared error of the steps ahead, on the standardised scale."""
        total, count = 0.0, 0
        step = -(-len(self.chosen) // MOST_WINDOWS)
        numbers = np.arange(0, len(self.chosen), step)
        for low in range(0, len(numbers), WINDOWS_AT_ONCE):
            batch = gather(
                self.series,
                self.chosen,
                numbers[low : low + WINDOWS_AT_ONCE],
                context=self.fitted.context,
                horizon=self.fitted.horizon,
            )
            window = batch.window
            real = window.real if window.real is not None else torch.ones_like(window.context) > 0
            named = vars(window) | {"real": real}
            point = program([named[name].contiguous() for name in self.inputs])[0]
            error = (point - batch.target).double().square()
            if batch.scored is not None:
                error = error[batch.scored]
            total, count = total + float(error.sum()), count + error.numel()
        return total / max(count, 1)


def of_tracer(
    fitted: FittedTracer, wanted: str, data: Path | None, runs: Path, length: int | None
) -> tuple[HeldOutStudents, str]:
    """Return the students to score on, and in words who they are.

    Args:
        fitted: the tracer.
        wanted: by which word it was asked for.
        data: a table of answers; None for the validation students of the run.
        runs: folder of the runs.
        length: the only length that the form takes; None for any.

    Raises:
        InputError: there is neither a table nor a run.
    """
    if data is not None:
        from kt_forecast.data.tables import load

        sequences = build(load(data), fitted.vocabulary)
        return HeldOutStudents(fitted, sequences, length), f"all students of {data}"
    from kt_forecast.experiment import flow, tables
    from kt_forecast.experiment.recipe import Recipe

    found = _run_of(wanted, runs)
    recipe = Recipe.read(inside(found, RECIPE))
    rows = flow.prepare(recipe, tables.load(recipe.data), found.folder / SPLIT)
    return HeldOutStudents(fitted, rows.parts[Role.VALID], length), "the validation students"


def of_forecaster(
    fitted: FittedForecaster, wanted: str, data: Path | None, runs: Path, form: Form
) -> tuple[HeldOutSeries, str]:
    """Return the windows to score on, and in words which they are; see `of_tracer`.

    Raises:
        InputError: there is neither a table nor a run.
    """
    mixing = fitted.plan.mixing
    if data is not None:
        from kt_forecast.data.series.load import load

        table = load(
            data,
            freq=fitted.frequency.text,
            past=fitted.scale.past_names,
            future=fitted.scale.future_names,
            static=tuple(fitted.facts.get("static", ())),
        )
        series = fitted.build(table)
        low = np.zeros(table.n_series, dtype=np.int64) + fitted.context
        chosen = origins(series, low, table.length, horizon=fitted.horizon, mixing=mixing)
        return HeldOutSeries(fitted, series, chosen, form), f"windows of {data}"
    from kt_forecast.experiment import forecasting
    from kt_forecast.experiment.recipe_forecast import ForecastRecipe
    from kt_forecast.experiment.series import load as load_series

    found = _run_of(wanted, runs)
    recipe = ForecastRecipe.read(inside(found, RECIPE))
    table = load_series(recipe.data)
    rows = forecasting.prepare(recipe, table, fitted.horizon, found.folder / SPLIT)
    series = fitted.build(table)
    if REAL not in form.inputs and series.observed is not None:
        raise InputError("--int8: the validation rows hold missing values; accepted is --data")
    # A form without `real` takes complete windows only.
    complete = replace(rows.split, train_end=np.maximum(rows.split.train_end, fitted.context))
    chosen = valid_origins(fitted.plan, series, complete)
    return HeldOutSeries(fitted, series, chosen, form), "the validation windows"


def _run_of(wanted: str, runs: Path) -> Run | ForecastRun:
    """Return the run of a model.

    Raises:
        InputError: it is no run's, so that nothing tells its validation rows.
    """
    try:
        return find(wanted, runs)
    except InputError:
        raise InputError(
            f"--int8 tells what it costs on rows that taught the model nothing, and {wanted} is no"
            " run that names its validation rows; accepted is --data with a table"
        ) from None
