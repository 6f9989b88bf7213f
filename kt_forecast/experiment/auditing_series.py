"""The data path and the scoring of a recipe of forecasting, as the auditor can run them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from kt_forecast.audit import Stage
from kt_forecast.audit.pipeline import Rows
from kt_forecast.data.series.frequency import stamps_of
from kt_forecast.data.series.load import load as series_of
from kt_forecast.data.series.splits import ByShare, SeriesSplit
from kt_forecast.data.series.table import SeriesTable
from kt_forecast.evaluation.forecasting import every_window
from kt_forecast.evaluation.streaming import Streamed
from kt_forecast.experiment import forecasting, series
from kt_forecast.experiment.auditing_parts import DEVIATIONS, Path, Sizes, scored
from kt_forecast.experiment.forecasting import SeriesRows
from kt_forecast.experiment.recipe_forecast import ForecastRecipe
from kt_forecast.forecaster import Fitted, fit_plan, fitting
from kt_forecast.schema import DS, UNIQUE_ID, Y
from kt_forecast.sequences.build_series import build
from kt_forecast.sequences.series import SeriesSet
from kt_forecast.sequences.windows import Origins, gather, in_order, origins

Ints = npt.NDArray[np.int64]

ROLE = "role"
TRAIN, VALID, TEST = "train", "valid", "test"
AHEAD = "values ahead"

WINDOWS = 24
"""Training windows of a series, evenly spaced, whose features are compared."""

PREDICTED = 96
"""Rows of a series, evenly spaced, from which forecasts are made; the context is read at all."""

NOISES = 6
"""Draws of noise that are forecast."""

LATER = 100.0
"""What stands in place of what comes after an origin, in standardised units."""

MARGIN = 24
"""Rows of each role beyond those that one window needs."""


@dataclass(frozen=True)
class FewSeries:
    """Some rows of a few series, and what the recipe makes of any changed copy of them.

    Attributes:
        table: the whole table.
        frame: the rows, with the role of each.
        fitted: a model whose weights stay.
    """

    table: SeriesTable
    frame: pl.DataFrame
    fitted: Fitted

    @property
    def names(self) -> list[str]:
        """Return the series in the order of the table."""
        return self.frame[UNIQUE_ID].unique(maintain_order=True).to_list()

    def contract(self) -> Rows:
        """Return when a cell of the sample is known: a row stands for the first step ahead."""
        return Rows(
            time=DS,
            entity=UNIQUE_ID,
            target=Y,
            answered=self.table.past_names,
            known=(DS, *self.table.future_names, *self.table.static_names),
            labels=(AHEAD,),
            split=ROLE,
            train=(TRAIN,),
            pooled=self.fitted.plan.mixing,
        )

    def features(self, train: pl.DataFrame, rest: pl.DataFrame) -> tuple[Any, Any, dict[str, Any]]:
        """Return what the recipe's flow makes of rows: features of both sides, and what it fits."""
        table, roles = read(self.table, pl.concat([train, rest]), self.names)
        scale = fitting.measured(table, roles)
        measured = build(table, scale)
        borders = ((0 * roles.train_end, roles.train_end), (roles.train_end, roles.test_end))
        strides = (max(len(self.frame) // len(self.names) // WINDOWS, 1), 1)
        sides = [
            self._windows(table, measured, *border, stride)
            for border, stride in zip(borders, strides, strict=True)
        ]
        fitted = {
            "scales": np.stack([scale.shift, scale.spread]),
            "covariates": np.concatenate([scale.mean, scale.deviation]),
        }
        return sides[0], sides[1], fitted

    def _windows(
        self, table: SeriesTable, measured: SeriesSet, low: Ints, high: Ints, stride: int
    ) -> Any:  # noqa: ANN401
        """Return a row for each window of a span, under the stamp of its first step ahead."""
        mixing, horizon, context = self.fitted.plan.mixing, self.fitted.horizon, self.fitted.context
        chosen = origins(measured, low, high, horizon=horizon, stride=stride, mixing=mixing)
        fixed = self.fitted.build(table)
        shape = {"context": context, "horizon": horizon}
        every = max(len(self.frame) // len(self.names) // PREDICTED, 1)
        parts = []
        for own in in_order(measured, chosen, **shape):
            numbers = own.place.numpy()
            _, first = chosen.at(numbers)
            channel, values = own.series.numpy(), own.values.numpy()
            row = np.broadcast_to(first[:, None], channel.shape).ravel()
            point = np.full((*channel.shape, horizon), np.nan, dtype=np.float32)
            asked = first % every == 0
            if asked.any():
                batch = gather(fixed, chosen, numbers[asked], **shape).to(self.fitted.device)
                point[asked] = self.fitted.predict(batch).point.float().cpu().numpy()
            past = own.past[..., :context, :].numpy()
            parts.append(
                {
                    UNIQUE_ID: pl.Series([table.ids[i] for i in channel.ravel()]),
                    DS: stamps_of(table, channel.ravel(), row),
                    "context, last": values[..., context - 1].ravel(),
                    "context, mean": np.nanmean(values[..., :context], -1).ravel(),
                    "past covariates": past.sum((-2, -1)).ravel(),
                    "forecast, first step": point[..., 0].ravel(),
                    "forecast, last step": point[..., -1].ravel(),
                    AHEAD: np.nansum(values[..., context:], -1).ravel(),
                }
            )
        if not parts:
            return self.frame.select(UNIQUE_ID, DS).clear()
        return pl.concat([pl.DataFrame(part) for part in parts])


def read(
    like: SeriesTable, frame: pl.DataFrame, names: list[str]
) -> tuple[SeriesTable, SeriesSplit]:
    """Return rows as the door reads them, with the borders that their roles name.

    Args:
        like: the table that they are of.
        frame: the rows, in any order.
        names: of the series, in the order of the table.
    """
    place = {name: i for i, name in enumerate(names)}
    order = frame[UNIQUE_ID].replace_strict(place, return_dtype=pl.Int64).arg_sort()
    in_dates = like.frequency.kind not in {"integer", "order"}
    table = series_of(
        frame[order].drop(ROLE),
        format="long",
        freq=like.frequency.text if in_dates else 1,
        gaps="mask",
        past=like.past_names,
        future=like.future_names,
        static=like.static_names,
        season=like.frequency.season,
        name="sample",
    )
    counted = frame.group_by(UNIQUE_ID).agg(
        (pl.col(ROLE) == role).sum().cast(pl.Int64).alias(role) for role in (TRAIN, VALID, TEST)
    )
    rows = {row[0]: row[1:] for row in counted.iter_rows()}
    ends = np.array([np.cumsum(rows[name]) for name in table.ids], dtype=np.int64)
    ends = np.minimum(ends, table.length[:, None])
    return table, SeriesSplit(ends[:, 0], ends[:, 1], ends[:, 2], ByShare(), table.data_hash)


def path_of(recipe: ForecastRecipe, sizes: Sizes, stored: Any = None) -> Path:  # noqa: ANN401
    """Return the data path of a recipe on a few series, with a model trained for an epoch on them.

    Args:
        recipe: of forecasting, for one horizon and seed.
        sizes: how much to look at.
        stored: the split's file of a stored run.
    """
    chosen, _ = forecasting.plans(recipe)
    rows = forecasting.prepare(recipe, series.load(recipe.data), chosen.horizon, stored)
    if chosen.training is not None:
        chosen, _ = forecasting.plans(recipe.changed({"training": {"epochs": 1}}, "audit"))
    context = int(getattr(chosen.forecasting, "context", 0) or 0)
    frame = _sample(rows, sizes, context, chosen.horizon, every=False)
    few, roles = read(rows.table, frame, frame[UNIQUE_ID].unique(maintain_order=True).to_list())
    fitted = fit_plan(chosen, few, roles, levels=(), device="cpu")
    return _path(recipe, rows, frame, fitted, on=SeriesRows(few, roles, ""))


def path_on(recipe: ForecastRecipe, rows: SeriesRows, sizes: Sizes, fitted: Fitted) -> Path:
    """Return the data path of a recipe for rows that are prepared and a model that is trained."""
    every = fitted.plan.mixing
    frame = _sample(rows, sizes, fitted.context, fitted.horizon, every=every)
    return _path(recipe, rows, frame, fitted, on=rows)


def _path(
    recipe: ForecastRecipe, rows: SeriesRows, frame: pl.DataFrame, fitted: Fitted, on: SeriesRows
) -> Path:
    sample = FewSeries(rows.table, frame, fitted)
    return Path(
        sample.features,
        frame,
        sample.contract(),
        stages=lambda: [*_border_stages(rows, fitted), *_scoring_stages(recipe, rows, sample)],
        model=lambda: forecasting.audited_model(fitted, on),
        what=f"{len(sample.names)} series, {len(frame)} of their rows",
    )


def _sample(
    rows: SeriesRows, sizes: Sizes, context: int, horizon: int, *, every: bool
) -> pl.DataFrame:
    """Return rows around the end of training, in which each role has some windows.

    Rows that train or validate take the place of test rows, where there are enough of them.
    """
    table, split = rows.table, rows.split
    count = table.n_series if every else min(table.n_series, sizes.entities // 3)
    chosen = np.argsort(-split.test_end, kind="stable")[:count]
    parts = []
    wanted = np.array([context + 2 * horizon + MARGIN, horizon + MARGIN, horizon + MARGIN])
    for i in sorted(chosen.tolist()):
        total, size = int(split.test_end[i]), wanted
        if total < wanted.sum():
            size = np.diff([0, split.train_end[i], split.valid_end[i], total])
        begin = max(min(int(split.train_end[i]) - int(size[0]), total - int(size.sum())), 0)
        place = np.arange(begin, begin + int(size.sum()))
        at = int(table.start[i]) + place
        in_order_only = table.frequency.kind == "order"
        y = table.y[at].astype(np.float64)
        columns: dict[str, Any] = {
            UNIQUE_ID: [table.ids[i]] * len(at),
            DS: pl.Series(place) if in_order_only else stamps_of(table, i, place),
            Y: pl.Series(y).fill_nan(None),
        }
        columns |= {n: table.past[at, j] for j, n in enumerate(table.past_names)}
        columns |= {n: table.future[at, j] for j, n in enumerate(table.future_names)}
        for j, n in enumerate(table.static_names):
            columns[n] = np.full(len(at), table.static[i, j])
        columns[ROLE] = np.repeat([TRAIN, VALID, TEST], size)
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def _border_stages(rows: SeriesRows, fitted: Fitted) -> Iterator[Stage]:
    """Count windows whose steps ahead are not all of one role."""
    split, measured, plan = rows.split, rows.read_by(fitted), fitted.plan
    low = 0 * split.train_end
    for role, found, (first, end) in (
        (TRAIN, fitting.train_origins(plan, measured, split.train_end), (low, split.train_end)),
        (VALID, fitting.valid_origins(plan, measured, split), (split.train_end, split.valid_end)),
        (TEST, _tested(rows, fitted, 1), (split.valid_end, split.test_end)),
    ):
        has = found.count > 0
        last = found.first + (found.count - 1) * found.stride + plan.horizon
        out = has & ((found.first < first[: len(has)]) | (last > end[: len(has)]))
        detail = f"{len(found)} windows; of {int(out.sum())} series some step ahead is of another"
        yield Stage(f"split: borders, {role}", "found" if out.any() else "passed", detail)


def _tested(rows: SeriesRows, fitted: Fitted, stride: int) -> Origins:
    measured, split = rows.read_by(fitted), rows.split
    low, high, mixing = split.valid_end, split.test_end, fitted.plan.mixing
    if stride == 1:
        return every_window(measured, low, high, horizon=fitted.horizon, mixing=mixing)
    return origins(measured, low, high, horizon=fitted.horizon, stride=stride, mixing=mixing)


def _scoring_stages(recipe: ForecastRecipe, rows: SeriesRows, sample: FewSeries) -> Iterator[Stage]:
    """Count the origins that are scored; forecast noise, which nobody can."""
    fitted, split = sample.fitted, rows.split
    for name in recipe.evaluation.protocols:
        stride = fitted.horizon if name == "rolling" else 1
        found = _tested(rows, fitted, stride)
        which, row = found.at(np.arange(len(found)))
        distinct = len(np.unique(np.stack([which, row]), axis=1).T)
        size = split.test_end - split.valid_end
        size = np.minimum(size, split.test_end - 1)[: len(found.first)]
        wanted = int(np.maximum((size - fitted.horizon) // stride + 1, 0).sum())
        yield scored(name, distinct, len(row), wanted)
        if name == forecasting.STREAM and (streamed := fitted.along()) is not None:
            yield _along(streamed, rows.read_by(fitted), found)
    yield _noise(sample, recipe.seed)


def _along(streamed: Streamed, measured: SeriesSet, chosen: Origins) -> Stage:
    """Change what comes after an origin: what is forecast from there along the series stays."""
    number = len(chosen) // 2
    which, row = (int(found[0]) for found in chosen.at(np.array([number])))
    last = int(chosen.count.cumsum()[which]) - 1
    # A later origin is asked for too, so that the series is read beyond the first one.
    asked = np.unique([number, min(number + streamed.model.task.patch, last)])
    later = torch.zeros_like(measured.values, dtype=torch.bool)
    start = measured.start.tolist()
    for one in range(measured.n_series) if chosen.mixing else [which]:
        later[start[one] + row : start[one + 1]] = True
    changed = replace(
        measured,
        values=measured.values.masked_fill(later, LATER),
        past=measured.past.masked_fill(later[:, None], LATER),
    )

    def forecast(series: SeriesSet) -> Tensor:
        parts = [
            (n == number, found.point) for n, found in streamed.streamed(series, chosen, asked)
        ]
        return torch.cat([point[torch.from_numpy(mine)] for mine, point in parts])

    moved = float((forecast(changed) - forecast(measured)).abs().max())
    return Stage(
        "scoring: along series",
        "passed" if moved == 0.0 else "found",
        f"a forecast moves by {moved:.1e} when all that comes after its origin changes",
    )


def _noise(sample: FewSeries, seed: int) -> Stage:
    """Forecast independent draws: a squared error below their variance reads them."""
    fitted, frame = sample.fitted, sample.frame
    draw = np.random.default_rng(seed)
    place = {name: i for i, name in enumerate(fitted.scale.ids)}
    known = [place.get(name, 0) for name in frame[UNIQUE_ID]]
    shift, spread = fitted.scale.shift[known], fitted.scale.spread[known]
    shape = {"context": fitted.context, "horizon": fitted.horizon}
    squares, count, rows = 0.0, 0, 0
    for _ in range(NOISES):
        noise = pl.Series(Y, shift + spread * draw.standard_normal(len(frame)))
        table, roles = read(sample.table, frame.with_columns(noise), sample.names)
        measured, mixing = fitted.build(table), fitted.plan.mixing
        low, high = roles.train_end, roles.test_end
        chosen = origins(measured, low, high, horizon=fitted.horizon, mixing=mixing)
        rows += int((high - low).sum())
        for batch in in_order(measured, chosen, **shape):
            point = fitted.predict(batch.to(fitted.device)).point.cpu()
            gap = point - batch.values[..., batch.n_context :]
            squares, count = squares + float(gap.double().square().sum()), count + gap.numel()
    name = "scoring: noise"
    if not count:
        return Stage(name, "skipped", "no window lies after the training rows")
    error = squares / count
    deviations = (1 - error) / np.sqrt(2 / rows)
    detail = f"squared error {error:.3f} on noise of variance 1, {deviations:+.1f} standard errors"
    return Stage(name, "found" if deviations > DEVIATIONS else "passed", f"{detail} below it")
