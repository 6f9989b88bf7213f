"""A table with rows for the steps ahead: what a forecast is asked on."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl

from kt_forecast.data.series.columns import numbers, stamps
from kt_forecast.data.series.frequency import at, stamps_of, ticks
from kt_forecast.data.series.source import Source
from kt_forecast.data.series.table import SeriesTable
from kt_forecast.errors import InputError
from kt_forecast.schema import DS, UNIQUE_ID

Ints = npt.NDArray[np.int64]


def ends(table: SeriesTable) -> Ints:
    """Return the row after the last value of each series, counted within the series."""
    real = np.isfinite(table.y)
    if real.all():
        return table.length
    place = np.where(real, np.arange(1, table.n_rows + 1), table.start[:-1].repeat(table.length))
    return np.maximum.reduceat(place, table.start[:-1]) - table.start[:-1]


def ahead(
    table: SeriesTable,
    horizon: int,
    future: Source | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    keep: int | None = None,
) -> SeriesTable:
    """Return the table cut after each series' last value, with rows for the steps ahead.

    Args:
        table: its rows after a series' last value may hold covariates known in advance.
        horizon: rows to add to each series; their values are nan.
        future: rows of the covariates known in advance, with the columns ``unique_id`` (without it
            they hold for every series), ``ds`` and those covariates; in the table's own's place.
        columns: ``unique_id`` and ``ds`` to that table's own names.
        keep: rows before the steps ahead to keep at most; None keeps all.

    Raises:
        InputError: a covariate known in advance is missing for a step ahead.
    """
    end = ends(table)
    dropped = np.zeros_like(end) if keep is None else np.maximum(end - keep, 0)
    size = end - dropped + horizon
    start = np.concatenate([[0], np.cumsum(size)])
    series = np.arange(table.n_series).repeat(size)
    row = np.arange(start[-1]) - start[series] + dropped[series]
    source = table.start[series] + np.minimum(row, table.length[series] - 1)
    is_ahead = row >= end[series]
    known = table.future[source]
    known[row >= table.length[series]] = np.nan
    if table.future_names:
        if future is not None:
            known[is_ahead] = np.nan
            first_ahead = start[:-1] + end - dropped
            _fill(table, known, future, columns or {}, first_ahead, end, horizon)
        _refuse_missing(table, known, series, row)
    past = table.past[source]
    past[is_ahead] = 0.0
    first = table.first
    if dropped.any() and table.frequency.kind != "order":
        first = at(table.frequency, table.first, dropped)
    return replace(
        table,
        start=start,
        first=first,
        y=np.where(is_ahead, np.nan, table.y[source]),
        past=past,
        future=known,
        stamps=None,
    )


def _fill(
    table: SeriesTable,
    known: npt.NDArray[np.float32],
    future: Source,
    columns: Mapping[str, str],
    first_ahead: Ints,
    end: Ints,
    horizon: int,
) -> None:
    """Put the covariates of the steps ahead at their rows.

    Raises:
        InputError: a column is missing.
    """
    own = {name: columns.get(name, name) for name in (UNIQUE_ID, DS)}
    for name in (own[DS], *table.future_names):
        if name not in future.names:
            raise InputError(
                f"{future.path}: has no column {name!r}; accepted are the steps ahead, with the"
                f" columns {', '.join((*own.values(), *table.future_names))}"
            )
    stamp, _ = stamps(future.column(own[DS]), future, own[DS])
    if own[UNIQUE_ID] in future.names:
        number = {name: i for i, name in enumerate(table.ids)}
        ids = future.column(own[UNIQUE_ID]).cast(pl.String).to_list()
        series = np.array([number.get(name, -1) for name in ids], dtype=np.int64)
        line = np.arange(len(stamp))
    else:
        series = np.arange(table.n_series).repeat(len(stamp))
        line = np.tile(np.arange(len(stamp)), table.n_series)
    if table.frequency.kind == "order":
        step = _nth(series)
    else:
        step = ticks(table.frequency, table.first[series], stamp[line]) - end[series]
    inside = (series >= 0) & (step >= 0) & (step < horizon)
    for column, name in enumerate(table.future_names):
        values = numbers(future.column(name), future, name)[line]
        known[first_ahead[series[inside]] + step[inside], column] = values[inside]


def _nth(series: Ints) -> Ints:
    """Return how many rows of the same series come before each row."""
    order = np.argsort(series, kind="stable")
    first = np.searchsorted(series[order], series[order])
    found = np.empty_like(order)
    found[order] = np.arange(len(series)) - first
    return found


def _refuse_missing(
    table: SeriesTable, known: npt.NDArray[np.float32], series: Ints, row: Ints
) -> None:
    """Refuse steps ahead without the covariates that the table says are known.

    Raises:
        InputError: there is one.
    """
    missing = np.isnan(known)
    if not missing.any():
        return
    at_row, column = (int(place[0]) for place in np.nonzero(missing))
    stamp = stamps_of(table, int(series[at_row]), row[at_row : at_row + 1])
    raise InputError(
        f"{table.name}: series {table.ids[series[at_row]]!r} has no"
        f" {table.future_names[column]!r} at {stamp[0]}, a step ahead; accepted is a table of the"
        f" steps ahead that holds {', '.join(table.future_names)} for every series and step"
    )
