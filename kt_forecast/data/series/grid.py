"""Where the rows of a table lie on a regular grid, or one sentence about the first that does not.

Rows that lie on it as they stand, series after series and step after step, are only looked
through, some at a time: that is how millions of them pass without a copy.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from kt_forecast.data.place import count
from kt_forecast.data.series.frequency import (
    ORDER_TEXT,
    at,
    detect,
    parse_frequency,
    stamp_text,
    ticks,
    usual_season,
)
from kt_forecast.data.series.source import Source
from kt_forecast.data.series.table import Frequency, StampType
from kt_forecast.errors import InputError

Ints = npt.NDArray[np.int64]
Gaps = Literal["refuse", "mask", "ffill"]

_BLOCK_ROWS = 1 << 20
_MOST_GROWTH = 20
"""How many times its own rows a table may have on the grid; more is a wrong stamp."""

ORDER_HINT = "stamps='order', which takes the rows of a series as equally spaced in their order"
GAPS_HINT = (
    "gaps='mask', which keeps the places of missing values out of every loss, or gaps='ffill',"
    " which repeats the last value before them"
)


@dataclass(frozen=True)
class Rows:
    """Which series each row of a table is of.

    Attributes:
        ids: name of each series.
        start: place of each series' first row and the number of rows at the end, where the rows of
            a series lie together; else None.
        code: number of each row's series, where they do not; else None.
    """

    ids: tuple[str, ...]
    start: Ints | None
    code: Ints | None = None

    def codes(self) -> Ints:
        """Return the number of each row's series."""
        if self.code is not None:
            return self.code
        assert self.start is not None  # noqa: S101
        return np.repeat(np.arange(len(self.ids)), np.diff(self.start))


@dataclass(frozen=True)
class Grid:
    """The grid that the rows of a table lie on.

    Attributes:
        start: place of each series' first step, and the number of steps at the end.
        first: stamp of each series' first step.
        frequency: the step.
        place: the step of each row of the table, among those of all series; None where every row
            lies at its own place.
        stamps: of each step, where rows were taken in their order.
        notes: what was found.
    """

    start: Ints
    first: Ints
    frequency: Frequency
    place: Ints | None
    stamps: Ints | None = None
    notes: tuple[str, ...] = ()

    def put(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return values of rows as values of steps, nan where a step has no row."""
        if self.place is None:
            return values
        laid = np.full((int(self.start[-1]), *values.shape[1:]), np.nan, dtype=values.dtype)
        laid[self.place] = values
        return laid


@dataclass(frozen=True)
class Naming:
    """How messages name stamps.

    Attributes:
        source: of the rows.
        column: the owner's name of the stamps.
        stamp_type: of the stamps.
        ids: name of each series; empty for a table whose series share their stamps.
    """

    source: Source
    column: str
    stamp_type: StampType
    ids: tuple[str, ...]

    def text(self, stamp: int | np.int64) -> str:
        """Return a stamp in the user's words."""
        return stamp_text(int(stamp), self.stamp_type)

    def of(self, series: int | np.int64) -> str:
        """Return the name of a series at the start of a clause."""
        return f"series {self.ids[series]!r} " if self.ids else "the table "


def group(ids: pl.Series, source: Source, name: str) -> Rows:
    """Return which series each row is of, series in the order in which they first appear.

    Raises:
        InputError: a row has no name of a series.
    """
    if ids.null_count():
        row = ids.is_null().arg_max() or 0
        raise InputError(f"{source.at(row, name)} is empty; accepted is a series in every row")
    if isinstance(ids.dtype, pl.Categorical | pl.Enum):
        ids = ids.cast(pl.String)
    if ids.dtype.is_integer():
        values = ids.to_numpy()
        new = np.flatnonzero(values[1:] != values[:-1]) + 1
    else:
        new = _changes(ids)
    heads = np.concatenate([np.zeros(1, dtype=np.int64), new])
    names = ids.gather(heads)
    start = np.append(heads, len(ids))
    if names.n_unique() == len(names):
        return Rows(tuple(names.cast(pl.String).to_list()), start)
    distinct = names.unique(maintain_order=True)
    numbered = pl.DataFrame({"name": distinct, "code": np.arange(len(distinct))})
    code = (
        names.alias("name")
        .to_frame()
        .join(numbered, on="name", how="left", maintain_order="left")["code"]
    )
    rows = np.repeat(code.to_numpy(), np.diff(start))
    return Rows(tuple(distinct.cast(pl.String).to_list()), None, rows)


def _changes(ids: pl.Series) -> Ints:
    """Return the rows whose name is not that of the row before, without a copy of all names."""
    found = [np.zeros(0, dtype=np.int64)]
    for low, high in _blocks(len(ids)):
        some, before = ids.slice(low + 1, high - low), ids.slice(low, high - low)
        changed = (some != before.head(len(some))).arg_true()
        found.append(low + 1 + changed.to_numpy().astype(np.int64))
    return np.concatenate(found)


def in_order(rows: Rows, stamps: Ints | None, season: int | None, *, dated: bool = False) -> Grid:
    """Return the grid of rows that are taken as equally spaced.

    Args:
        rows: which series each row is of.
        stamps: what the table says of time, kept for tables that go back to it.
        season: steps of the cycle; by default the one that the most common step suggests.
        dated: whether stamps are microseconds, not integers.
    """
    place, start = None, rows.start
    if start is None:
        code = rows.codes()
        order = np.argsort(code, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        start = np.append(0, np.cumsum(np.bincount(code, minlength=len(rows.ids))))
    if stamps is not None and place is not None:
        laid = np.empty_like(stamps)
        laid[place] = stamps
        stamps = laid
    if stamps is None:
        first = np.zeros(len(rows.ids), dtype=np.int64)
        return Grid(start, first, parse_frequency(ORDER_TEXT, season), place)
    season = season or usual_season(stamps, dated=dated)
    return Grid(start, stamps[start[:-1]], parse_frequency(ORDER_TEXT, season), place, stamps)


def lay(
    rows: Rows,
    stamps: npt.NDArray[Any],
    naming: Naming,
    *,
    freq: str | int | None,
    gaps: Gaps,
    season: int | None,
) -> Grid:
    """Return the grid that the rows lie on by their stamps.

    Args:
        rows: which series each row is of.
        stamps: of the rows.
        naming: for messages.
        freq: the step as the user names it; detected where it is None.
        gaps: whether steps without a row are accepted.
        season: steps of the cycle.

    Raises:
        InputError: a stamp is there twice, lies off the grid, or is missing; or the frequency is
            not the data's or cannot be detected.
    """
    dated = not naming.stamp_type.is_numeric()
    wanted = None if freq is None else parse_frequency(freq, season)
    if wanted is not None and dated != (wanted.kind != "integer"):
        kind = "dates" if dated else "whole numbers"
        raise InputError(
            f"{naming.source.path}: freq {freq!r} does not fit stamps that are {kind}; accepted is"
            f" {'a step of time, such as 1h' if dated else 'a whole number'}"
        )
    even = None if rows.start is None else _even(rows.start, stamps, dated=dated, season=season)
    if even and (wanted is None or (wanted.kind, wanted.step) == (even.kind, even.step)):
        assert rows.start is not None  # noqa: S101
        first = stamps[rows.start[:-1]].astype(np.int64)
        return Grid(rows.start, first, wanted or even, None)
    return _laid(rows, stamps.astype(np.int64), naming, wanted=wanted, gaps=gaps, season=season)


def _even(
    start: Ints, stamps: npt.NDArray[Any], *, dated: bool, season: int | None
) -> Frequency | None:
    """Return the frequency if it is the only step between the rows of a series."""
    head = stamps[:_BLOCK_ROWS].astype(np.int64)
    ends = np.append(start[start < len(head)], len(head))
    steps = np.diff(head)
    steps = np.delete(steps, ends[1:-1] - 1)
    if not len(steps) or steps.min() != steps.max() or steps[0] <= 0:
        return None
    frequency = detect(head, ends, dated=dated, season=season)
    if frequency.kind not in {"duration", "integer"}:
        return None
    for low, high in _blocks(len(stamps)):
        step = np.diff(stamps[low : high + 1].astype(np.int64))
        border = start[np.searchsorted(start, low + 1) : np.searchsorted(start, high + 1)]
        border = border[border < len(stamps)]
        step[border - low - 1] = frequency.step
        if (step != frequency.step).any():
            return None
    return frequency


def _blocks(n_rows: int) -> Iterator[tuple[int, int]]:
    for low in range(0, n_rows, _BLOCK_ROWS):
        yield low, min(low + _BLOCK_ROWS, n_rows)


def _laid(
    rows: Rows,
    stamps: Ints,
    naming: Naming,
    *,
    wanted: Frequency | None,
    gaps: Gaps,
    season: int | None,
) -> Grid:
    code = rows.codes()
    order, notes = _risen(code, stamps, rows.ids)
    if order is not None:
        code, stamps = code[order], stamps[order]

    def row(place: int) -> int:
        return place if order is None else int(order[place])

    same = code[1:] == code[:-1]
    _refuse_twice(code, stamps, same, naming, row)
    start = np.append(0, np.cumsum(np.bincount(code, minlength=len(rows.ids))))
    dated = not naming.stamp_type.is_numeric()
    try:
        frequency = wanted or detect(stamps, start, dated=dated, season=season)
    except InputError as error:
        raise InputError(f"{naming.source.path}: {error}") from None
    first = stamps[start[:-1]]
    tick = ticks(frequency, first[code], stamps)
    _refuse_off(code, stamps, first, tick, frequency, naming, row, wanted=wanted is not None)
    step = np.diff(tick)[same]
    if wanted is not None and len(step) and not (step == 1).any():
        usual = detect(stamps, start, dated=dated)
        raise InputError(
            f"{naming.source.path}: freq {wanted.text!r} is not the data's, whose most common step"
            f" is {usual.text!r}; accepted is that, or no freq"
        )
    if gaps == "refuse":
        _refuse_gap(code, tick, same, first, frequency, naming)
    length = tick[start[1:] - 1] + 1
    if length.sum() > _MOST_GROWTH * len(stamps) + _BLOCK_ROWS:
        leap = int(np.where(same, np.diff(tick), 0).argmax())
        raise InputError(
            f"{naming.source.at(row(leap + 1), naming.column)}:"
            f" {naming.of(code[leap])}goes from {naming.text(stamps[leap])} to"
            f" {naming.text(stamps[leap + 1])}, by far more steps than it has rows; accepted are"
            f" stamps without such a leap, or {ORDER_HINT}"
        )
    begin = np.append(0, np.cumsum(length))
    missing = int(begin[-1]) - len(stamps)
    if missing:
        notes = (*notes, f"{count(missing, 'step')} between the rows of a series had no row")
    place = begin[code] + tick
    if order is None and not missing:
        return Grid(begin, first, frequency, None, notes=notes)
    laid = np.empty_like(place)
    laid[slice(None) if order is None else order] = place
    return Grid(begin, first, frequency, laid, notes=notes)


def _risen(code: Ints, stamps: Ints, ids: tuple[str, ...]) -> tuple[Ints | None, tuple[str, ...]]:
    """Return the order of the rows by series and stamp, and a note; None where it is theirs."""
    same = code[1:] == code[:-1]
    late = same & (stamps[1:] < stamps[:-1])
    if not late.any() and (code[1:] >= code[:-1]).all():
        return None, ()
    order = np.lexsort((stamps, code))
    # Rows of one series may be far apart in the table and still be in the order of their stamps.
    moved = (np.diff(order) < 0) & (np.diff(code[order]) == 0)
    if not moved.any():
        return order, ()
    touched = len(np.unique(code[order][1:][moved]))
    whose = f"{count(touched, 'series', 'series')} of {len(ids)}"
    return order, (
        f"the rows of {whose} were not in the order of their stamps"
        f" ({count(int(moved.sum()), 'row')} came too late) and were sorted",
    )


def _refuse_twice(
    code: Ints,
    stamps: Ints,
    same: npt.NDArray[np.bool_],
    naming: Naming,
    row: Callable[[int], int],
) -> None:
    twice = same & (stamps[1:] == stamps[:-1])
    if not twice.any():
        return
    place = int(twice.argmax())
    number = int(twice.sum()) - 1
    more = f", and so {count(number, 'more row')}" if number else ""
    raise InputError(
        f"{naming.source.at(row(place + 1), naming.column)}: {naming.of(code[place])}has the stamp"
        f" {naming.text(stamps[place])} twice{more}; accepted is one row a stamp, or {ORDER_HINT}"
    )


def _refuse_off(
    code: Ints,
    stamps: Ints,
    first: Ints,
    tick: Ints,
    frequency: Frequency,
    naming: Naming,
    row: Callable[[int], int],
    *,
    wanted: bool,
) -> None:
    off = at(frequency, first[code], tick) != stamps
    if not off.any():
        return
    place = int(off.argmax())
    where = naming.source.at(row(place), naming.column)
    if not wanted and off.mean() > 0.5:
        raise InputError(
            f"{naming.source.path}: the frequency cannot be detected, for most stamps lie off the"
            f" most common step {frequency.text!r}, the first of them at {where}; accepted are"
            f" stamps of equal steps, freq= with the step, or {ORDER_HINT}"
        )
    source = "is not the data's" if wanted else "was detected"
    raise InputError(
        f"{where}: {naming.of(code[place])}has the stamp {naming.text(stamps[place])}, which is no"
        f" whole number of steps after its first, {naming.text(first[code[place]])}, where the"
        f" frequency {frequency.text!r} {source}; accepted are stamps on such a grid, another"
        f" freq, or {ORDER_HINT}"
    )


def _refuse_gap(
    code: Ints,
    tick: Ints,
    same: npt.NDArray[np.bool_],
    first: Ints,
    frequency: Frequency,
    naming: Naming,
) -> None:
    gap = same & (np.diff(tick) > 1)
    if not gap.any():
        return
    place = int(gap.argmax())
    of = code[place]
    stamp = int(at(frequency, int(first[of]), tick[place : place + 1] + 1)[0])
    missing = int((np.diff(tick)[gap] - 1).sum())
    number = len(np.unique(code[1:][gap]))
    raise InputError(
        f"{naming.source.path}, column {naming.column!r}: {naming.of(of)}has no row for"
        f" {naming.text(stamp)} ({count(missing, 'step')} of frequency {frequency.text!r}"
        f" {'is' if missing == 1 else 'are'} missing, in {count(number, 'series', 'series')});"
        f" accepted are {GAPS_HINT}, or {ORDER_HINT}"
    )
