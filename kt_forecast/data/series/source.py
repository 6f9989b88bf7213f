"""Tables of series wherever they are: a file or a frame, its columns taken out one at a time."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from kt_forecast.data.readers import listed, unreadable
from kt_forecast.data.readers._files import (
    DELIMITERS,
    FIRST_ROWS,
    PARQUET,
    header,
    open_sheet,
    readable,
)
from kt_forecast.errors import InputError
from kt_forecast.schema import DS

_DATED = ("ds", "date", "datetime", "timestamp", "time")


@dataclass(frozen=True)
class Source:
    """A table as it was found.

    Attributes:
        frame: its columns under their own names.
        path: file, or the words for a frame, for messages.
        names: its columns, in their order.
        first_line: line of the file of the first row; None where rows have no lines.
        notes: what was assumed to read it.
        again: whether a column can be read at no great cost after another was.
    """

    frame: pl.LazyFrame
    path: str
    names: tuple[str, ...]
    first_line: int | None = None
    notes: tuple[str, ...] = ()
    again: bool = True

    def column(self, name: str) -> pl.Series:
        """Return a column.

        Raises:
            InputError: the file cannot be read to its end.
        """
        try:
            return self.frame.select(name).collect().to_series()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(unreadable([self.path], error)) from error

    def held(self, names: Iterable[str]) -> "Source":
        """Return the source with some columns read at once, where they are not read one by one.

        Raises:
            InputError: the file cannot be read to its end.
        """
        if self.again:
            return self
        try:
            return replace(self, frame=self.frame.select(*names).collect().lazy(), again=True)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(unreadable([self.path], error)) from error

    def head(self, name: str) -> pl.Series:
        """Return the first values of a column.

        Raises:
            InputError: the file cannot be read.
        """
        return replace(self, frame=self.frame.head(FIRST_ROWS)).column(name)

    def at(self, row: int, column: str | None = None) -> str:
        """Return file, line (or row) and column of a row, which counts from 0."""
        line = f"row {row + 1}" if self.first_line is None else f"line {row + self.first_line}"
        return f"{self.path}, {line}" + ("" if column is None else f", column {column!r}")

    def own(self, name: str, use: str) -> str:
        """Return a column's name if it is there.

        Raises:
            InputError: it is not; the nearest one is named.
        """
        if name in self.names:
            return name
        near = get_close_matches(name, self.names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {listed(self.names)}"
        raise InputError(f"{self.path}: there is no column {name!r} ({use}); {hint}")

    def dated(self) -> str | None:
        """Return the column that is named like a date, if one is."""
        lower = {name.strip().lower(): name for name in reversed(self.names)}
        return next((lower[word] for word in _DATED if word in lower), None)


def open_source(source: Any) -> Source:  # noqa: ANN401
    """Open a path or a pandas or polars frame.

    Raises:
        InputError: there is no such file, or it is no table.
    """
    if isinstance(source, str | Path):
        return _open_path(Path(source))
    if isinstance(source, pl.LazyFrame):
        # A plan may give other rows the second time: it is run once.
        names = tuple(source.collect_schema().names())
        return Source(source, "the data frame", names, again=False)
    if isinstance(source, pl.DataFrame):
        return Source(source.lazy(), "the data frame", tuple(source.columns))
    if type(source).__module__.split(".")[0] == "pandas":
        frame = _from_pandas(source)
        return Source(frame.lazy(), "the data frame", tuple(frame.columns))
    raise InputError(
        f"a {type(source).__name__} is no table of series; accepted are a path, a pandas or polars"
        " data frame, and the name of a data set with a card"
    )


def _open_path(path: Path) -> Source:
    """Open a file.

    Raises:
        InputError: it is missing, a folder, or no table.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; accepted is a CSV, TSV or Parquet file")
    readable(path)
    with path.open("rb") as file:
        parquet = file.read(len(PARQUET)) == PARQUET
    if parquet:
        scanned = pl.scan_parquet(path)
        return Source(scanned, str(path), tuple(scanned.collect_schema().names()))
    separator = max(DELIMITERS, key=lambda mark: len(header(path, mark)))
    sheet = open_sheet(path, separator)
    return Source(sheet.frame, str(path), sheet.columns, 2, sheet.notes, again=False)


def _from_pandas(table: Any) -> pl.DataFrame:  # noqa: ANN401
    """Return a pandas frame (or one series of values) with what its index says as columns.

    Raises:
        InputError: a column mixes types.
    """
    import pandas as pd

    frame = table.to_frame(table.name or "y") if isinstance(table, pd.Series) else table
    index = frame.index
    if isinstance(index, pd.DatetimeIndex | pd.PeriodIndex):
        moments = index.to_timestamp() if isinstance(index, pd.PeriodIndex) else index
        if DS not in frame.columns:
            frame = frame.set_axis(moments.rename(index.name or DS), axis=0).reset_index()
    elif any(name is not None and name not in frame.columns for name in index.names):
        frame = frame.reset_index()
    columns = {}
    for column in frame.columns:
        values = frame[column]
        if isinstance(values.dtype, pd.PeriodDtype):
            values = values.dt.to_timestamp()
        try:
            columns[str(column)] = pl.from_pandas(values.copy())
        except (TypeError, ValueError, ArithmeticError, pl.exceptions.PolarsError) as error:
            raise InputError(
                f"the data frame, column {str(column)!r}, mixes types ({error}); accepted is one"
                " type a column"
            ) from error
    return pl.DataFrame(columns)


def first_rows(series: pl.Series) -> pl.Series:
    """Return the first values that are there, enough to judge a column by."""
    return series.head(FIRST_ROWS).drop_nulls()
