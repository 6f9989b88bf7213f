"""Values of one column under their canonical type, or a refusal that names the row."""

import polars as pl

from kt_forecast.data.encoding import lookup, spelled_numbers
from kt_forecast.data.place import Place, count
from kt_forecast.data.readers._files import MOMENTS
from kt_forecast.errors import InputError
from kt_forecast.schema import FOLD, ORDER, RESPONSE, TEST_FOLD, TIME

_DAY = "%Y-%m-%d"
_RESPONSES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "true": 1, "false": 0}


def _refuse(bad: pl.Series, series: pl.Series, column: str, where: Place, accepted: str) -> None:
    """Refuse the first row that is bad, if any.

    Raises:
        InputError: a row is bad.
    """
    row = bad.fill_null(value=True).arg_max()
    if row is None or bad[row] is False:
        return
    value = series[row]
    empty = value is None or value == ""
    seen = where.emptiness(row, column) if empty else f"holds {value!r}"
    raise InputError(f"{where.at(row, column)} {seen}; accepted {accepted}")


def ids(series: pl.Series, column: str, where: Place) -> pl.Series:
    """Return names of students or questions; every row must have one.

    Raises:
        InputError: a row is empty or not a number, or the column cannot hold names.
    """
    accepted = "is text or a whole number in every row"
    series = _plain(series, column, where, accepted)
    if series.dtype == pl.String and (whole := spelled_numbers(series)) is not None:
        return whole
    bad = series.is_null()
    if series.dtype.is_float():
        bad |= series.is_nan().fill_null(value=True)
    elif series.dtype == pl.String:
        bad |= (series.str.strip_chars() == "").fill_null(value=True)
    _refuse(bad, series, column, where, accepted)
    return series


def concepts(series: pl.Series, column: str, where: Place) -> pl.Series:
    """Return concepts as lists, text or numbers; a missing value is the empty set.

    Raises:
        InputError: the column cannot hold concepts.
    """
    if isinstance(series.dtype, pl.List | pl.Array):
        return series.cast(pl.List(series.dtype.inner))
    series = _plain(series, column, where, "are lists, joined text or whole numbers")
    if series.dtype == pl.String and (whole := spelled_numbers(series)) is not None:
        return whole
    return series.fill_nan(None) if series.dtype.is_float() else series


def responses(series: pl.Series, where: Place) -> pl.Series:
    """Return responses as UInt8.

    Raises:
        InputError: a value is neither 0 nor 1 in any accepted spelling.
    """
    if series.dtype == pl.String and series.str.len_bytes().max() == 1:
        numbers = series.cast(pl.UInt8, strict=False)
        numbers = numbers.set(numbers > 1, None)
    elif series.dtype == pl.String:
        distinct = series.unique()
        spelling = distinct.str.strip_chars().str.to_lowercase()
        known = spelling.replace_strict(_RESPONSES, default=None, return_dtype=pl.UInt8)
        numbers = lookup(series, distinct, known)
    elif series.dtype.is_integer():
        numbers = series.cast(pl.UInt8, strict=False)
        numbers = numbers.set(numbers > 1, None)
    elif series.dtype.is_numeric() or series.dtype in {pl.Boolean, pl.Null}:
        small = series.cast(pl.Float64, strict=False)
        numbers = small.set(~small.is_in([0.0, 1.0]), None).cast(pl.UInt8)
    else:
        numbers = pl.repeat(None, len(series), dtype=pl.UInt8, eager=True)
    bad = numbers.is_null()
    _refuse(bad, series, RESPONSE, where, "are 0 and 1, also as 0.0, 1.0, false and true")
    return numbers


def times(series: pl.Series, where: Place) -> pl.Series:
    """Return times as Int64 milliseconds.

    Raises:
        InputError: a row is empty, not finite, or no time.
    """
    accepted = "are whole milliseconds, dates and ISO date texts"
    original = series
    if series.dtype == pl.String:
        numbers = _text_numbers(series)
        if numbers.null_count() > series.null_count():
            moments = dates(series)
            # What is rarer does not belong: it is refused, with its value.
            numbers = moments if moments.null_count() < numbers.null_count() else numbers
        series = numbers
    if series.dtype == pl.Date:
        series = series.cast(pl.Datetime("ms"))
    if isinstance(series.dtype, pl.Datetime):
        series = series.dt.timestamp("ms")
    return _whole(series, original, TIME, where, accepted)


def orders(series: pl.Series, where: Place) -> pl.Series:
    """Return event ids as Int64.

    Raises:
        InputError: a row is empty or no whole number.
    """
    original = series
    if isinstance(series.dtype, pl.Datetime):
        series = series.dt.timestamp("us")
    return _whole(series, original, ORDER, where, "is a whole number in every row")


def folds(series: pl.Series, where: Place) -> pl.Series:
    """Return published folds as Int8.

    Raises:
        InputError: a row holds no fold.
    """
    accepted = f"are folds from 0 and {TEST_FOLD} for the published test students"
    whole = _whole(series, series, FOLD, where, accepted)
    _refuse((whole < TEST_FOLD) | (whole > 127), series, FOLD, where, accepted)
    return whole.cast(pl.Int8)


def extras(series: pl.Series, column: str, where: Place) -> tuple[pl.Series, list[str]]:
    """Return an answer-side column as Float32, and what was changed in it.

    Raises:
        InputError: a value is no number or not finite.
    """
    numbers = series.cast(pl.Float32, strict=False)
    wrong = (numbers.is_null() & series.is_not_null()) | ~numbers.is_finite().fill_null(value=True)
    _refuse(wrong, series, column, where, "are finite numbers and empty values")
    notes = []
    if missing := numbers.null_count():
        notes.append(_as_zero(missing, "empty", column, where))
        numbers = numbers.fill_null(0.0)
    if negative := int((numbers < 0).sum()):
        notes.append(_as_zero(negative, "negative", column, where))
        numbers = numbers.clip(lower_bound=0.0)
    return numbers, notes


def _as_zero(number: int, kind: str, column: str, where: Place) -> str:
    counted = "counts" if number == 1 else "count"
    return f"{where.name(column)}: {count(number, f'{kind} value')} {counted} as 0"


def dates(series: pl.Series) -> pl.Series:
    """Return the moments that text spells, read as UTC."""
    text = series.str.strip_chars()
    plain = text.str.replace(r"(Z|\+00:?00)$", "")
    found = pl.repeat(None, len(series), dtype=pl.Datetime("ms"), eager=True)
    for form in (*MOMENTS, _DAY):
        open_ = found.is_null() & series.is_not_null()
        if not open_.any():
            return found
        read = plain.filter(open_).str.to_datetime(form, strict=False, time_unit="ms")
        if read.null_count() < len(read):
            found = found.scatter(open_.arg_true(), read)
    if found.null_count() < len(found):
        return found
    try:
        return text.str.to_datetime(time_unit="ms", strict=False)
    except pl.exceptions.ComputeError:
        return found


def _whole(
    series: pl.Series, original: pl.Series, column: str, where: Place, accepted: str
) -> pl.Series:
    if series.dtype == pl.String:
        series = _text_numbers(series)
    if series.dtype.is_float():
        series = series.set(~series.is_finite(), None).round()
    if series.dtype.is_numeric():
        numbers = series.cast(pl.Int64, strict=False)
    else:
        numbers = pl.repeat(None, len(series), dtype=pl.Int64, eager=True)
    _refuse(numbers.is_null(), original, column, where, accepted)
    return numbers


def _text_numbers(series: pl.Series) -> pl.Series:
    """Return text as Int64, or as Float64 where whole numbers are written with a point."""
    whole = series.cast(pl.Int64, strict=False)
    if whole.null_count() == series.null_count():
        return whole
    text = series.str.strip_chars()
    whole = text.cast(pl.Int64, strict=False)
    if whole.null_count() == series.null_count():
        return whole
    return text.cast(pl.Float64, strict=False)


def _plain(series: pl.Series, column: str, where: Place, accepted: str) -> pl.Series:
    """Refuse types that hold no names, and read categories as text.

    Raises:
        InputError: the column's type cannot hold names.
    """
    if isinstance(series.dtype, pl.Categorical | pl.Enum):
        return series.cast(pl.String)
    if series.dtype.is_nested() or series.dtype in {pl.Object, pl.Binary}:
        raise InputError(
            f"{where.path}, column {where.name(column)}, is of type {series.dtype}; accepted"
            f" {accepted}"
        )
    return series
