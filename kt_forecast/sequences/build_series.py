"""From checked series to tensors, measured by their training rows."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from kt_forecast.data.series.frequency import calendar as calendar_of
from kt_forecast.data.series.frequency import calendar_names, ticks
from kt_forecast.data.series.table import SeriesTable
from kt_forecast.errors import InputError
from kt_forecast.sequences.series import SeriesSet, WindowShape

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ROWS_AT_ONCE = 4_000_000
"""Rows that are measured at a time, so that no second copy of a large table is made."""


@dataclass(frozen=True)
class SeriesScale:
    """What series and covariates are measured from and by, fitted on training rows.

    Attributes:
        ids: names of the series.
        shift: mean of each series' training rows.
        spread: their standard deviation; 1 where they do not differ.
        past_names: covariates known up to the origin.
        future_names: covariates known in advance.
        static_names: facts of a series.
        mean: of the covariates past, future and static, one after another.
        deviation: of the same; 1 where they do not differ.
    """

    ids: tuple[str, ...]
    shift: Floats
    spread: Floats
    past_names: tuple[str, ...] = ()
    future_names: tuple[str, ...] = ()
    static_names: tuple[str, ...] = ()
    mean: Floats = field(default_factory=lambda: np.zeros(0))
    deviation: Floats = field(default_factory=lambda: np.ones(0))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return its numbers by name."""
        return {name: getattr(self, name) for name in ("shift", "spread", "mean", "deviation")}

    def names(self) -> dict[str, list[str]]:
        """Return its names as JSON can hold them."""
        found = ("ids", "past_names", "future_names", "static_names")
        return {name: list(getattr(self, name)) for name in found}

    @classmethod
    def restore(cls, names: dict[str, list[str]], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Return what `names` and `arrays` describe."""
        plain: dict[str, Any] = {key: tuple(value) for key, value in names.items()}
        return cls(**(plain | arrays))


def fit_scale(table: SeriesTable, train_end: Ints) -> SeriesScale:
    """Measure series and covariates on training rows.

    Args:
        table: the series.
        train_end: rows of each series that train.
    """
    shift, spread = _measured(table, train_end)
    moments = []
    trains: slice | npt.NDArray[np.bool_] = slice(None)
    if table.past_names or table.future_names:
        trains = _row(table) < train_end.repeat(table.length)
    for covariates, rows in (
        (table.past, trains),
        (table.future, trains),
        (table.static, slice(None)),
    ):
        chosen = covariates[rows].astype(np.float64) if covariates.shape[1] else np.zeros((1, 0))
        moments.append((np.nanmean(chosen, 0), np.nanstd(chosen, 0)))
    mean, deviation = (np.concatenate(parts) for parts in zip(*moments, strict=True))
    return SeriesScale(
        ids=table.ids,
        shift=shift,
        spread=spread,
        past_names=table.past_names,
        future_names=table.future_names,
        static_names=table.static_names,
        mean=mean,
        deviation=np.where(deviation > 0, deviation, 1.0),
    )


def build(
    table: SeriesTable, scale: SeriesScale, *, calendar: bool = False, asking: bool = False
) -> SeriesSet:
    """Return the series as tensors.

    Args:
        table: the series; those that the scale does not know are measured by their own rows.
        scale: what series and covariates are measured by.
        calendar: tell the calendar of the stamps as covariates known in advance.
        asking: rows after a series' last value are there to be forecast, not missing.

    Raises:
        InputError: the covariates are not those of the scale.
    """
    _refuse_other(table, scale)
    shift, spread = _of_series(table, scale)
    values = np.empty(table.n_rows, dtype=np.float32)
    for block, low, high in _blocks(table):
        size = table.length[block]
        y = table.y[low:high].astype(np.float64)
        values[low:high] = (y - shift[block].repeat(size)) / spread[block].repeat(size)
    real = np.isfinite(values)
    observed = None
    if not real.all():
        observed = _filled(table, values, real, asking=asking)
    past, future, static = _standardised(table, scale)
    tick, clock = _clock(table, calendar=calendar)
    return SeriesSet(
        values=torch.from_numpy(values),
        observed=None if observed is None else torch.from_numpy(observed),
        start=torch.from_numpy(table.start.astype(np.int64)),
        past=torch.from_numpy(past),
        known=torch.from_numpy(future),
        clock=torch.from_numpy(clock),
        tick=torch.from_numpy(tick),
        static=torch.from_numpy(static),
        shift=torch.from_numpy(shift),
        spread=torch.from_numpy(spread),
    )


def shape_of(table: SeriesTable, series: SeriesSet) -> WindowShape:
    """Return what windows of the series hold; the task sets context, horizon and outputs."""
    return WindowShape(
        context=1,
        horizon=1,
        channels=table.n_series,
        past=series.past.shape[1],
        known=series.n_known,
        static=series.static.shape[1],
        season=table.frequency.season,
        gaps=series.observed is not None,
    )


def known_names(table: SeriesTable, *, calendar: bool) -> tuple[str, ...]:
    """Return the names of what is known in advance, in the order of a window's columns."""
    return table.future_names + (calendar_names(table.frequency) if calendar else ())


def _row(table: SeriesTable) -> Ints:
    """Return each row's place within its series."""
    return np.arange(table.n_rows) - table.start[:-1].repeat(table.length)


def _blocks(table: SeriesTable) -> Iterator[tuple[slice, int, int]]:
    """Yield series that lie together, with their first row and the row after their last."""
    low = 0
    while low < table.n_series:
        high = int(np.searchsorted(table.start, table.start[low] + ROWS_AT_ONCE, side="right")) - 1
        high = min(max(high, low + 1), table.n_series)
        yield slice(low, high), int(table.start[low]), int(table.start[high])
        low = high


def _measured(table: SeriesTable, end: Ints) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of each series' rows before ``end``."""
    shift, spread = np.zeros(table.n_series), np.ones(table.n_series)
    for block, low, high in _blocks(table):
        y = table.y[low:high].astype(np.float64)
        size, start = table.length[block], table.start[block] - low
        row = np.arange(high - low) - start.repeat(size)
        counts = np.isfinite(y) & (row < end[block].repeat(size))
        count = np.maximum(np.add.reduceat(counts, start, dtype=np.int64), 1)
        y[~counts] = 0.0
        mean = np.add.reduceat(y, start) / count
        apart = np.where(counts, y - mean.repeat(size), 0.0)
        deviation = np.sqrt(np.add.reduceat(apart**2, start) / count)
        shift[block] = mean
        # A spread within the rounding of the mean is none.
        is_spread = deviation > 1e-12 * np.maximum(np.abs(mean), 1e-300)
        spread[block] = np.where(is_spread, deviation, 1.0)
    return shift, spread


def _of_series(table: SeriesTable, scale: SeriesScale) -> tuple[Floats, Floats]:
    """Return shift and spread of each series of the table."""
    if table.ids == scale.ids:
        return scale.shift, scale.spread
    number = {name: i for i, name in enumerate(scale.ids)}
    place = np.array([number.get(name, -1) for name in table.ids], dtype=np.int64)
    known = place >= 0
    if known.all():
        return scale.shift[place], scale.spread[place]
    shift, spread = _measured(table, table.length)
    shift[known], spread[known] = scale.shift[place[known]], scale.spread[place[known]]
    return shift, spread


def _filled(
    table: SeriesTable,
    values: npt.NDArray[np.float32],
    real: npt.NDArray[np.bool_],
    *,
    asking: bool,
) -> npt.NDArray[np.bool_] | None:
    """Fill missing values with the last one before them, in place, and return which are real."""
    place = np.where(real, np.arange(table.n_rows), table.start[:-1].repeat(table.length))
    np.maximum.accumulate(place, out=place)
    first = table.start[:-1].repeat(table.length)
    place = np.maximum(place, first)
    values[:] = np.nan_to_num(values[place], nan=0.0)
    if not asking:
        return real
    after = np.where(real, np.arange(1, table.n_rows + 1), 0)
    last = np.maximum.reduceat(after, table.start[:-1]).repeat(table.length)
    inside = np.arange(table.n_rows) < last
    return None if real[inside].all() else real | ~inside


def _standardised(
    table: SeriesTable, scale: SeriesScale
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the covariates, measured as on the training rows; what is missing is at the mean."""
    found, low = [], 0
    for covariates in (table.past, table.future, table.static):
        high = low + covariates.shape[1]
        mean, deviation = scale.mean[low:high], scale.deviation[low:high]
        measured = (covariates - mean.astype(np.float32)) / deviation.astype(np.float32)
        found.append(np.nan_to_num(measured, nan=0.0).astype(np.float32))
        low = high
    return found[0], found[1], found[2]


def _clock(table: SeriesTable, *, calendar: bool) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Return the tick at which each series starts, and the calendar of all ticks."""
    if table.frequency.kind == "order":
        return np.zeros(table.n_series, dtype=np.int64), np.zeros((0, 0), dtype=np.float32)
    base = table.first.min(keepdims=True)
    tick = ticks(table.frequency, base, table.first)
    if not calendar:
        return tick, np.zeros((0, 0), dtype=np.float32)
    return tick, calendar_of(int(base[0]), table.frequency, int((tick + table.length).max()))


def _refuse_other(table: SeriesTable, scale: SeriesScale) -> None:
    """Refuse covariates other than those that were fitted.

    Raises:
        InputError: they differ.
    """
    for what, own, fitted in (
        ("past", table.past_names, scale.past_names),
        ("future", table.future_names, scale.future_names),
        ("static", table.static_names, scale.static_names),
    ):
        if own != fitted:
            raise InputError(
                f"{table.name}: holds the {what} covariates {list(own)}; accepted are those of the"
                f" training table, {list(fitted)}"
            )
