"""The step of a grid: found, checked, counted along, and turned into a calendar.

Stamps are whole microseconds since 1970, or the integers themselves. Months, quarters, years and
business days have no fixed length; all code asks this module where a step leads.
"""

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from kt_forecast.data.series.table import Frequency, Kind, SeriesTable, StampType
from kt_forecast.errors import InputError

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

ORDER_TEXT = "order"

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY
_SHORTEST_MONTH = 28 * DAY
_FIRST_STEPS = 1 << 21
"""How many steps between rows the most common one is sought among."""

_DURATIONS = {"w": WEEK, "d": DAY, "h": HOUR, "m": MINUTE, "s": SECOND, "ms": 1000, "us": 1}
_SPELLINGS = {
    "min": "m",
    "T": "m",
    "t": "m",
    "H": "h",
    "D": "d",
    "W": "w",
    "S": "s",
    "L": "ms",
    "U": "us",
}
_MONTHS = {"mo": 1, "M": 1, "MS": 1, "q": 3, "Q": 3, "QS": 3, "y": 12, "Y": 12, "YS": 12, "A": 12}
_MONTH_ENDS = {"ME": 1, "QE": 3, "YE": 12}
_BUSINESS = {"b", "B", "bd"}
_ACCEPTED = (
    "accepted are texts such as '15m', '1h', '1d', '1b' (business days), '1w', '1mo', '1q', '1y',"
    " 'ME' (month ends), and whole numbers for integer stamps"
)


def parse_frequency(text: str | int, season: int | None = None) -> Frequency:
    """Return the frequency that a text names, in the words of polars or of pandas.

    Args:
        text: such as ``1h``, ``15min``, ``MS``, ``B``; a whole number for integer stamps.
        season: steps of the cycle; by default the one that the step suggests.

    Raises:
        InputError: the text names no frequency.
    """
    if text == ORDER_TEXT:
        return _frequency("order", 1, season)
    found = re.fullmatch(r"(\d*)([A-Za-z]*)(-[A-Z]{3})?", str(text).strip())
    if not found or not str(text).strip() or found[1] == "0":
        raise InputError(f"freq {text!r} is no frequency; {_ACCEPTED}")
    count, unit = int(found[1] or 1), found[2]
    unit = _SPELLINGS.get(unit, unit)
    if not unit:
        return _frequency("integer", count, season)
    if unit in _DURATIONS:
        return _frequency("duration", count * _DURATIONS[unit], season)
    if unit in _MONTHS:
        return _frequency("months", count * _MONTHS[unit], season)
    if unit in _MONTH_ENDS:
        return _frequency("months", count * _MONTH_ENDS[unit], season, ends=True)
    if unit in _BUSINESS:
        return _frequency("business_days", count, season)
    raise InputError(f"freq {text!r} is no frequency; {_ACCEPTED}")


def _frequency(kind: Kind, step: int, season: int | None, *, ends: bool = False) -> Frequency:
    text = _text(kind, step, ends=ends)
    return Frequency(text=text, kind=kind, step=step, season=season or default_season(kind, step))


def _text(kind: Kind, step: int, *, ends: bool) -> str:
    if kind == "order":
        return ORDER_TEXT
    if kind == "integer":
        return str(step)
    if kind == "business_days":
        return f"{step}b"
    if kind == "months":
        units = {12: "YE", 3: "QE", 1: "ME"} if ends else {12: "y", 3: "q", 1: "mo"}
        size = next(size for size in units if step % size == 0)
        count = step // size
        return units[size] if ends and count == 1 else f"{count}{units[size]}"
    unit, size = next((unit, size) for unit, size in _DURATIONS.items() if step % size == 0)
    return f"{step // size}{unit}"


def default_season(kind: Kind, step: int) -> int:
    """Return the steps of the cycle that a step suggests; 1 where it suggests none."""
    if kind == "business_days":
        return 5 if step == 1 else 1
    if kind == "months":
        return 12 // step if 12 % step == 0 else 1
    if kind != "duration":
        return 1
    if step == WEEK:
        return 52
    if step >= DAY:
        return WEEK // step if WEEK % step == 0 else 1
    whole = DAY if step > MINUTE else HOUR if step == MINUTE else MINUTE
    return whole // step if whole % step == 0 else 1


def detect(stamps: Ints, start: Ints, *, dated: bool, season: int | None = None) -> Frequency:
    """Return the most common step between the stamps of a series.

    Whether every stamp is a whole number of steps from the first is for `ticks` to say.

    Args:
        stamps: rising within each series, without repeats.
        start: place of each series' first row, and the number of rows at the end.
        dated: whether stamps are microseconds, not integers.
        season: steps of the cycle; by default the one that the step suggests.

    Raises:
        InputError: no series has two stamps.
    """
    head = stamps[: _FIRST_STEPS + 1]
    steps = np.diff(head)
    inside = np.ones(len(steps), dtype=np.bool_)
    borders = start[1:-1]
    inside[borders[borders <= len(steps)] - 1] = False
    steps = steps[inside]
    if not len(steps):
        raise InputError(
            "the frequency cannot be detected, for no series has two stamps; accepted is a"
            f" frequency that is named (freq=), where {_ACCEPTED}"
        )
    step = _commonest(steps)
    if not dated:
        return _frequency("integer", step, season)
    if step >= _SHORTEST_MONTH and (found := _months(head, inside, season)):
        return found
    if step == DAY and _skips_weekends(head, int(steps.max())):
        return _frequency("business_days", 1, season)
    return _frequency("duration", step, season)


def usual_season(stamps: Ints, *, dated: bool) -> int:
    """Return the cycle that the most common step between stamps suggests, whatever their order."""
    steps = np.diff(stamps[: _FIRST_STEPS + 1])
    steps = steps[steps > 0]
    kind: Kind = "duration" if dated else "integer"
    return default_season(kind, _commonest(steps)) if len(steps) else 1


def _commonest(steps: Ints) -> int:
    values, counts = np.unique(steps, return_counts=True)
    return int(values[counts.argmax()])


def _months(stamps: Ints, inside: Mask, season: int | None) -> Frequency | None:
    """Return a frequency of months where all stamps are the same day of a month, or all its last.

    Days after the 28th may be cut down to the length of their month.
    """
    moment = _moments(stamps)
    day, last = moment.dt.day(), moment.dt.month_end().dt.day()
    clock = stamps % DAY
    if (clock != clock[0]).any():
        return None
    wanted = day.max()
    same = (day == pl.select(pl.min_horizontal(last, pl.lit(wanted))).to_series()).all()
    ends = bool((day == last).all())
    if not same and not ends:
        return None
    number = _month_number(moment)
    step = _commonest(np.diff(number)[inside])
    return _frequency("months", step, season, ends=ends) if step > 0 else None


def _skips_weekends(stamps: Ints, longest: int) -> bool:
    if longest < 3 * DAY:
        return False
    return bool(np.is_busday((stamps // DAY).astype("datetime64[D]")).all())


def _moments(stamps: Ints) -> pl.Series:
    return pl.Series(stamps, dtype=pl.Int64).cast(pl.Datetime("us"))


def _month_number(moments: pl.Series) -> Ints:
    number = moments.dt.year().cast(pl.Int64) * 12 + moments.dt.month().cast(pl.Int64)
    return number.to_numpy()


def ends_months(frequency: Frequency) -> bool:
    """Tell whether the stamps are the last days of their months."""
    return frequency.kind == "months" and frequency.text.endswith("E")


def ticks(frequency: Frequency, first: Ints, stamps: Ints) -> Ints:
    """Return how many steps each stamp is after the first of its series, rounded down.

    Months are counted by their number, whatever the day.

    Args:
        frequency: of the grid.
        first: the first stamp of each row's series, or one for all.
        stamps: of the rows.
    """
    if frequency.kind == "months":
        both = np.broadcast_to(first, stamps.shape)
        months = _month_number(_moments(stamps)) - _month_number(_moments(both))
        return months // frequency.step
    if frequency.kind == "business_days":
        low, high = ((x // DAY).astype("datetime64[D]") for x in (first, stamps))
        return np.asarray(np.busday_count(low, high), dtype=np.int64) // frequency.step
    return (stamps - first) // frequency.step


def at(frequency: Frequency, first: Ints | int, count: Ints) -> Ints:
    """Return the stamps that lie a number of steps after the first ones.

    Args:
        frequency: of the grid; not ``order``, whose rows have no such stamps.
        first: of each row's series, or one for all.
        count: steps.
    """
    first = np.broadcast_to(np.asarray(first, dtype=np.int64), count.shape)
    if frequency.kind == "months":
        moved = pl.DataFrame({"first": _moments(first), "months": count * frequency.step})
        origin = pl.col("first")
        if ends_months(frequency):
            origin = origin.dt.month_start()
        value = origin.dt.offset_by(pl.format("{}mo", "months"))
        if ends_months(frequency):
            value = value.dt.month_end()
        return moved.select(value.cast(pl.Int64)).to_series().to_numpy()
    if frequency.kind == "business_days":
        day = (first // DAY).astype("datetime64[D]")
        moved_day = np.busday_offset(day, count * frequency.step, roll="forward")
        return moved_day.astype(np.int64) * DAY + first % DAY
    return first + count * frequency.step


def typed(stamps: Ints, stamp_type: StampType | None) -> pl.Series:
    """Return stamps in the type that the user's own had."""
    values = pl.Series(stamps, dtype=pl.Int64)
    if stamp_type is None or stamp_type.is_numeric():
        return values.cast(stamp_type or pl.Int64)
    moments = values.cast(pl.Datetime("us"))
    if isinstance(stamp_type, pl.Datetime) and stamp_type.time_zone:
        moments = moments.dt.replace_time_zone("UTC")
        moments = moments.dt.convert_time_zone(stamp_type.time_zone)
    return moments.cast(stamp_type)


def stamp_text(stamp: int, stamp_type: StampType | None) -> str:
    """Return a stamp for a message."""
    if stamp_type is None or stamp_type.is_numeric():
        return str(stamp)
    text = str(typed(np.array([stamp]), stamp_type)[0])
    return text.removesuffix(" 00:00:00")


def stamps_of(table: SeriesTable, series: int | Ints, rows: Ints) -> pl.Series:
    """Return stamps in the user's type.

    Args:
        table: the series.
        series: number of the series of all rows, or one number a row.
        rows: counted within their series; those past its end are stamps of the future.
    """
    rows = np.asarray(rows, dtype=np.int64)
    of = np.broadcast_to(np.asarray(series, dtype=np.int64), rows.shape)
    if table.frequency.kind != "order":
        return typed(at(table.frequency, table.first[of], rows), table.stamp_type)
    if table.stamps is None:
        return typed(rows, None)
    last = table.length[of] - 1
    beyond = np.maximum(rows - last, 0)
    known = table.stamps[table.start[of] + np.minimum(rows, last)]
    return typed(known + beyond * _usual_step(table), table.stamp_type)


def future_stamps(table: SeriesTable, series: int, count: int) -> pl.Series:
    """Return the stamps of the steps after the last row of a series.

    Where rows were taken in their order these go on by the most common step between stamps.
    """
    return stamps_of(table, series, np.arange(count) + table.length[series])


def _usual_step(table: SeriesTable) -> int:
    steps = np.diff(table.stamps[: table.length[0]]) if table.stamps is not None else np.array([])
    steps = steps[steps > 0]
    return _commonest(steps) if len(steps) else 1


_Feature = tuple[str, Callable[[pl.Series], pl.Series], int, int]

_FEATURES: tuple[tuple[_Feature, int], ...] = (
    (("second", lambda moment: moment.dt.second(), 0, 59), MINUTE),
    (("minute", lambda moment: moment.dt.minute(), 0, 59), HOUR),
    (("hour", lambda moment: moment.dt.hour(), 0, 23), DAY),
    (("day_of_week", lambda moment: moment.dt.weekday(), 1, 7), WEEK),
)
_DATES: tuple[_Feature, ...] = (
    ("day_of_month", lambda moment: moment.dt.day(), 1, 31),
    ("day_of_year", lambda moment: moment.dt.ordinal_day(), 1, 366),
)
_MONTH: _Feature = ("month", lambda moment: moment.dt.month(), 1, 12)


def _calendar(frequency: Frequency) -> list[_Feature]:
    """Return the features that vary at a step."""
    if frequency.kind == "months":
        return [_MONTH] if frequency.step % 12 else []
    if frequency.kind == "business_days":
        return [_FEATURES[-1][0], *_DATES]
    if frequency.kind != "duration":
        return []
    return [*(feature for feature, cycle in _FEATURES if frequency.step % cycle), *_DATES]


def calendar_names(frequency: Frequency) -> tuple[str, ...]:
    """Return the names of the columns of `calendar`."""
    return tuple(name for name, *_ in _calendar(frequency))


def calendar(first: int, frequency: Frequency, n: int) -> npt.NDArray[np.float32]:
    """Return what the calendar says of ``n`` steps from a stamp on, from -0.5 to 0.5.

    Integers and rows that were taken in their order have no calendar, and no columns.
    """
    features = _calendar(frequency)
    if not features:
        return np.zeros((n, 0), dtype=np.float32)
    moment = _moments(at(frequency, first, np.arange(n)))
    columns = [
        (read(moment).to_numpy().astype(np.float32) - low) / (high - low) - 0.5
        for _, read, low, high in features
    ]
    return np.stack(columns, axis=1)
