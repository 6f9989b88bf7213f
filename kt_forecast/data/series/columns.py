"""One column of a table of series as an array, or a refusal that names the row."""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from kt_forecast.data.readers._files import MISSING
from kt_forecast.data.series.frequency import DAY
from kt_forecast.data.series.source import Source, first_rows
from kt_forecast.data.series.table import StampType
from kt_forecast.data.values import dates
from kt_forecast.errors import InputError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]

_STAMPS = (
    "accepted are dates and moments such as 2024-01-31 or 2024-01-31 13:00:00, and whole numbers"
)


def _tidy(series: pl.Series) -> pl.Series:
    """Return text without outer blanks, null where it only says that a value is missing."""
    text = series.str.strip_chars()
    return text.set(text.is_in(MISSING), None)


def numbers(series: pl.Series, source: Source, name: str) -> Floats:
    """Return a column of numbers, nan where one is missing; float32 stays what it is.

    Raises:
        InputError: a value is no number, or the column cannot hold numbers.
    """
    if series.dtype == pl.String:
        found = series.cast(pl.Float64, strict=False)
        if found.null_count() > series.null_count():
            text = _tidy(series)
            found = text.cast(pl.Float64, strict=False)
            wrong = found.is_null() & text.is_not_null()
            if wrong.any():
                raise InputError(_no_number(series, source, name, wrong.arg_max() or 0))
        series = found
    elif series.dtype == pl.Null:
        series = series.cast(pl.Float64)
    elif not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        raise InputError(
            f"{source.path}, column {name!r}, is of type {series.dtype}; accepted are numbers"
        )
    if not series.dtype.is_float() or series.dtype == pl.Float16:
        series = series.cast(pl.Float64)
    return series.to_numpy()


def _no_number(series: pl.Series, source: Source, name: str, row: int) -> str:
    return (
        f"{source.at(row, name)} holds {series[row]!r}; accepted are numbers, and empty values"
        " where one is missing"
    )


def is_number(series: pl.Series) -> bool:
    """Tell from its first values whether a column holds numbers."""
    if series.dtype != pl.String:
        return series.dtype.is_numeric() or series.dtype in {pl.Boolean, pl.Null}
    head = _tidy(first_rows(series)).drop_nulls()
    return bool(head.cast(pl.Float64, strict=False).is_not_null().all())


def stamps(series: pl.Series, source: Source, name: str) -> tuple[npt.NDArray[Any], StampType]:
    """Return stamps as whole microseconds or integers, and the type to give them back in.

    Integers keep their own width.

    Raises:
        InputError: a stamp is missing or cannot be understood.
    """
    original, kind = series, series.dtype
    if isinstance(kind, pl.Categorical | pl.Enum):
        series = series.cast(pl.String)
    if series.dtype == pl.String:
        series = _from_text(series)
        kind = series.dtype
    if kind.is_float():
        series = series.set(~(series.is_finite() & (series == series.round())), None)
        series, kind = series.cast(pl.Int64), pl.Int64()
    if not (kind.is_integer() or isinstance(kind, pl.Date | pl.Datetime)):
        raise InputError(f"{source.path}, column {name!r}, is of type {kind}; {_STAMPS}")
    if series.null_count():
        row = series.is_null().arg_max() or 0
        value = original[row]
        said = "is empty" if value is None or value == "" else f"holds {value!r}"
        raise InputError(f"{source.at(row, name)} {said}; {_STAMPS}")
    if not kind.is_integer():
        series = series.cast(pl.Datetime("us", getattr(kind, "time_zone", None))).to_physical()
    return series.to_numpy(), kind


def _from_text(series: pl.Series) -> pl.Series:
    """Return integers or moments, whichever more of the text spells; days where all are midnight.

    Days are told from moments by the text: one that holds no colon.
    """
    whole = series.str.strip_chars().cast(pl.Int64, strict=False)
    if whole.null_count() * 2 < len(whole):
        return whole
    moments = dates(series).cast(pl.Datetime("us"))
    known = moments.drop_nulls()
    days = bool((known.to_physical() % DAY == 0).all())
    if days and not series.str.contains(":", literal=True).any():
        return moments.cast(pl.Date)
    return moments


def are_stamps(series: pl.Series) -> bool:
    """Tell from its first values whether a column can be one of stamps."""
    head = first_rows(series)
    if series.dtype == pl.String:
        return bool(len(head)) and _from_text(head).null_count() < len(head)
    return series.dtype.is_integer() or isinstance(series.dtype, pl.Date | pl.Datetime)


def moment(text: str) -> int | None:
    """Return the microseconds since 1970 of a moment, or None where the text spells none."""
    found = dates(pl.Series([text]))[0]
    return (
        None if found is None else int(pl.Series([found]).cast(pl.Datetime("us")).to_physical()[0])
    )
