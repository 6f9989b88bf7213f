"""Fewer rows of the same series."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kt_forecast.data.series.table import SeriesTable

Ints = npt.NDArray[np.int64]


def before(table: SeriesTable, end: Ints) -> SeriesTable:
    """Return the table without the rows of each series from ``end`` on.

    Args:
        table: the series.
        end: rows of each series to keep; none of them 0.
    """
    if np.array_equal(end, table.length):
        return table
    start = np.append(0, np.cumsum(end))
    kept = np.arange(start[-1]) + (table.start[:-1] - start[:-1]).repeat(end)
    return replace(
        table,
        start=start,
        y=table.y[kept],
        past=table.past[kept],
        future=table.future[kept],
        stamps=None if table.stamps is None else table.stamps[kept],
        data_hash="",
    )
