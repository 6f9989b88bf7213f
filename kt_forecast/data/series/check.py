"""The door: a table of series as it was found becomes checked series, or one sentence of refusal.

What cannot be used is refused with file, row, series and column. A missing value is never filled
from what came after it. What is put right or looks wrong is said in a note.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from kt_forecast.data.place import count
from kt_forecast.data.series import columns
from kt_forecast.data.series.frequency import at
from kt_forecast.data.series.grid import GAPS_HINT, Gaps, Grid, Naming, Rows, group, in_order, lay
from kt_forecast.data.series.scale import scale_notes
from kt_forecast.data.series.source import Source
from kt_forecast.data.series.table import Frequency, SeriesTable, StampType
from kt_forecast.errors import InputError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]
Floats32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Stamps = Literal["auto", "dates", "order"]

_BLOCK_ROWS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What the columns of a table are for, by the table's own names.

    Attributes:
        ids: names of series; None for a table of one series, and for a wide one.
        ds: stamps; None where there are none.
        y: the values; in a wide table, one column a series.
        past: covariates known up to the origin.
        future: covariates known in advance.
        static: facts of a series.
    """

    ids: str | None
    ds: str | None
    y: tuple[str, ...]
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()

    def all(self) -> tuple[str, ...]:
        """Return every column that is read."""
        named = [name for name in (self.ids, self.ds) if name is not None]
        return tuple(dict.fromkeys((*named, *self.y, *self.past, *self.future, *self.static)))


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the user chose.

    Attributes:
        name: of the table.
        freq: the step; detected where it is None.
        stamps: whether stamps say where rows lie, or their order does.
        gaps: what becomes of missing values inside a series.
        season: steps of the cycle; by default the one that the step suggests.
        asking: for predictions: a series may have a single value.
    """

    name: str
    freq: str | int | None = None
    stamps: Stamps = "auto"
    gaps: Gaps = "refuse"
    season: int | None = None
    asking: bool = False


@dataclass(frozen=True)
class _Values:
    """Values on the grid, without the steps before the first and, mostly, after the last of them.

    Attributes:
        y: of the series one after another; nan where one is missing.
        start: place of each series' first step, and the number of steps at the end.
        lead: steps that were left out before each series' first.
        kept: which steps of the grid were kept; None where all were. Of a wide table, of the one
            grid that its series share.
        last: place of each series' last value.
        notes: what was found.
    """

    y: Floats
    start: Ints
    lead: Ints
    kept: Mask | None
    last: Ints
    notes: tuple[str, ...] = ()


def check(source: Source, roles: Roles, choices: Choices, *, wide: bool) -> SeriesTable:
    """Return checked series.

    Args:
        source: the table.
        roles: what its columns are for.
        choices: of the user.
        wide: whether each column of values is a series, and covariates are of all of them.

    Raises:
        InputError: the table cannot be used; the sentence names file, row, series and column.
    """
    source = source.held(roles.all())
    rows = _rows(source, roles)
    grid, stamp_type = _grid(source, roles, choices, rows)
    naming = Naming(source, roles.ds or "", stamp_type or pl.Int64(), roles.y if wide else rows.ids)
    read = _wide_values if wide else _long_values
    values = read(naming, roles, choices, grid)
    past, past_notes = _covariates(naming, roles.past, choices, grid, values, known=False)
    future, future_notes = _covariates(naming, roles.future, choices, grid, values, known=True)
    static, static_names = _static(source, roles.static, rows)
    if wide:
        static = np.repeat(static, len(roles.y), axis=0)
    first, stamps = _stamps(grid, values, len(naming.ids))
    notes = [*source.notes, *grid.notes, *values.notes, *past_notes, *future_notes]
    if not choices.asking:
        notes += scale_notes(values.y, values.start, naming.ids)
    return SeriesTable(
        name=choices.name,
        ids=naming.ids,
        start=values.start,
        first=first,
        frequency=grid.frequency,
        y=values.y,
        past=past,
        past_names=roles.past,
        future=future,
        future_names=roles.future,
        static=static,
        static_names=static_names,
        stamps=stamps,
        stamp_type=stamp_type,
        id_name=roles.ids or "",
        notes=tuple(notes),
        data_hash=_content_hash(
            grid.frequency,
            (naming.ids, roles.past, roles.future, static_names),
            (values.start, first, values.y, past, future, static, stamps),
        ),
    )


def _rows(source: Source, roles: Roles) -> Rows:
    """Return which series each row is of.

    Raises:
        InputError: the table holds no rows.
    """
    if roles.ids is not None:
        ids = source.column(roles.ids)
        height = len(ids)
    else:
        height = len(source.column(roles.y[0]))
    if not height:
        raise InputError(f"{source.path}: holds no rows; accepted is a table of two rows or more")
    if roles.ids is not None:
        return group(ids, source, roles.ids)
    return Rows((roles.y[0],), np.array([0, height]))


def _grid(
    source: Source, roles: Roles, choices: Choices, rows: Rows
) -> tuple[Grid, StampType | None]:
    """Return the grid of the rows, and the type of their stamps.

    Raises:
        InputError: stamps are asked for and the table has none, or they make no grid.
    """
    ordered = choices.stamps == "order" or choices.freq == "order"
    if roles.ds is None:
        if not ordered:
            raise InputError(
                f"{source.path}: no column of stamps was found; accepted are a column ds, a"
                " mapping of it to the table's own (columns={'ds': NAME}), or stamps='order' for"
                " rows that are equally spaced"
            )
        return in_order(rows, None, choices.season), None
    column = source.column(roles.ds)
    if ordered and not columns.are_stamps(column):
        return in_order(rows, None, choices.season), None
    stamps, stamp_type = columns.stamps(column, source, roles.ds)
    del column
    if ordered:
        dated = not stamp_type.is_numeric()
        return in_order(rows, stamps.astype(np.int64), choices.season, dated=dated), stamp_type
    ids = rows.ids if roles.ids is not None else ()
    naming = Naming(source, roles.ds, stamp_type, ids)
    grid = lay(rows, stamps, naming, freq=choices.freq, gaps=choices.gaps, season=choices.season)
    return grid, stamp_type


def _long_values(naming: Naming, roles: Roles, choices: Choices, grid: Grid) -> _Values:
    """Return the values of series that lie under each other.

    Raises:
        InputError: a value cannot be used, or is missing inside a series where that is refused.
    """
    name = roles.y[0]
    y = grid.put(_finite(naming.source, name))
    start = grid.start
    if not _has_nan(y):
        _refuse_short(np.diff(start), naming, choices)
        return _Values(y, start, np.zeros(len(start) - 1, dtype=np.int64), None, start[1:] - 1)
    there = np.flatnonzero(~np.isnan(y))
    low, high = np.searchsorted(there, start[:-1]), np.searchsorted(there, start[1:])
    _refuse_short(high - low, naming, choices)
    first, last = there[low], there[high - 1]
    end = start[1:] if roles.future else last + 1
    kept = np.zeros(len(y), dtype=np.int64)
    np.add.at(kept, first, 1)
    np.add.at(kept, end[end < len(y)], -1)
    mask = np.cumsum(kept).astype(np.bool_)
    inner = (last - first + 1) - (high - low)
    if choices.gaps == "refuse" and inner.any():
        series = int((inner > 0).argmax())
        span = y[first[series] : last[series] + 1]
        step = int(first[series] + np.isnan(span).argmax())
        _refuse_empty(naming, grid, name, series, step, inner)
    notes = [*_trimmed(first - start[:-1], "before the first value of a series", naming.ids)]
    notes += _trimmed(start[1:] - end, "after the last value of a series", naming.ids)
    lead = first - start[:-1]
    y = y[mask]
    start = np.append(0, np.cumsum(end - first))
    last = start[:-1] + (last - first)
    y, more = _gaps(y, start, last, inner, choices)
    return _Values(y, start, lead, None if mask.all() else mask, last, (*notes, *more))


def _wide_values(naming: Naming, roles: Roles, choices: Choices, grid: Grid) -> _Values:
    """Return the values of series that lie side by side; they keep their common steps.

    Raises:
        InputError: a value cannot be used, or is missing inside a series where that is refused.
    """
    read = [_finite(naming.source, name) for name in roles.y]
    matrix = grid.put(np.stack(read, axis=1))
    there = ~np.isnan(matrix)
    _refuse_short(there.sum(axis=0), naming, choices)
    n_steps = len(matrix)
    first, last = there.argmax(axis=0), n_steps - 1 - there[::-1].argmax(axis=0)
    low, high = int(first.min()), n_steps if roles.future else int(last.max()) + 1
    inner = last - first + 1 - there.sum(axis=0)
    if choices.gaps == "refuse" and inner.any():
        series = int((inner > 0).argmax())
        step = int(first[series] + (~there[first[series] :, series]).argmax())
        _refuse_empty(naming, grid, roles.y[series], series, step, inner)
    notes = [*_trimmed(np.array([low]), "before the first value", ("",))]
    notes += _trimmed(np.array([n_steps - high]), "after the last value", ("",))
    uneven = int(((first > low) | (last < high - 1)).sum()) if not roles.future else 0
    if uneven:
        notes.append(
            f"{count(uneven, 'series', 'series')} of {len(roles.y)} begin later or end earlier"
            " than the table; their values there are missing"
        )
    kept = np.zeros(n_steps, dtype=np.bool_)
    kept[low:high] = True
    y = np.ascontiguousarray(matrix[low:high].T).reshape(-1)
    start = np.arange(len(roles.y) + 1) * (high - low)
    place = start[:-1] + last - low
    y, more = _gaps(y, start, place, inner, choices)
    lead = np.full(len(roles.y), low)
    return _Values(y, start, lead, None if kept.all() else kept, place, (*notes, *more))


def _finite(source: Source, name: str) -> Floats:
    """Return a column of numbers, nan where one is missing.

    Raises:
        InputError: a value is no number or infinite.
    """
    values = columns.numbers(source.column(name), source, name)
    for low in range(0, len(values), _BLOCK_ROWS):
        infinite = np.isinf(values[low : low + _BLOCK_ROWS])
        if infinite.any():
            row = low + int(infinite.argmax())
            raise InputError(
                f"{source.at(row, name)} is infinite; accepted are finite numbers, and empty"
                " values where one is missing"
            )
    return values


def _has_nan(values: Floats) -> bool:
    return any(
        bool(np.isnan(values[low : low + _BLOCK_ROWS]).any())
        for low in range(0, len(values), _BLOCK_ROWS)
    )


def _refuse_short(n_values: Ints, naming: Naming, choices: Choices) -> None:
    least = 1 if choices.asking else 2
    short = n_values < least
    if not short.any():
        return
    series = int(short.argmax())
    number = int(short.sum()) - 1
    more = f", and so {count(number, 'more series', 'more series')}" if number else ""
    has = count(int(n_values[series]), "value") if n_values[series] else "no value"
    raise InputError(
        f"{naming.source.path}: series {naming.ids[series]!r} has {has}{more}; accepted are series"
        f" of {count(least, 'value')} or more"
    )


def _refuse_empty(
    naming: Naming, grid: Grid, name: str, series: int, step: int, inner: Ints
) -> None:
    """Refuse a value that is missing inside a series.

    Raises:
        InputError: always.
    """
    row = step if grid.place is None else int(np.flatnonzero(grid.place == step)[0])
    raise InputError(
        f"{naming.source.at(row, name)} is empty inside series {naming.ids[series]!r}"
        f" ({count(int(inner.sum()), 'value')} in"
        f" {count(int((inner > 0).sum()), 'series', 'series')}); accepted are {GAPS_HINT}"
    )


def _trimmed(steps: Ints, where: str, ids: tuple[str, ...]) -> list[str]:
    """Return a note of the steps without a value that were left out, if there are any."""
    if not steps.any():
        return []
    of = f", in {count(int((steps > 0).sum()), 'series', 'series')}" if len(ids) > 1 else ""
    return [f"left out {count(int(steps.sum()), 'step')} {where}{of}"]


def _gaps(
    y: Floats, start: Ints, last: Ints, inner: Ints, choices: Choices
) -> tuple[Floats, list[str]]:
    """Do with missing values inside series what was chosen, and say so."""
    if not inner.any():
        return y, []
    found = (
        f"{count(int(inner.sum()), 'value')} in {count(int((inner > 0).sum()), 'series', 'series')}"
        f" {'is' if inner.sum() == 1 else 'are'} missing"
    )
    if choices.gaps == "mask":
        return y, [f"{found} and masked"]
    return _forward(y, start, last), [f"{found} and repeat the value before"]


def _forward(values: Floats, start: Ints, last: Ints | None = None) -> Floats:
    """Repeat the last value before a missing one, within a series and up to ``last`` of it."""
    place = np.arange(len(values))
    missing = np.isnan(values)
    source = np.maximum.accumulate(np.where(missing, 0, place))
    series = np.searchsorted(start, place, side="right") - 1
    fill = missing & (source >= start[series])
    if last is not None:
        fill &= place <= last[series]
    return np.where(fill, values[source], values)


def _covariates(
    naming: Naming,
    names: tuple[str, ...],
    choices: Choices,
    grid: Grid,
    values: _Values,
    *,
    known: bool,
) -> tuple[Floats32, list[str]]:
    """Return covariates of every step, and notes.

    Those that are known up to the origin are not known after a series' last value; what stands
    there is never read.

    Raises:
        InputError: a value cannot be used, or is missing where no choice says what becomes of it.
    """
    if not names:
        return np.zeros((len(values.y), 0), dtype=np.float32), []
    n_steps = int(grid.start[-1])
    shared = n_steps if values.kept is None else int(values.kept.sum())
    copies = len(values.y) // shared
    start = values.start if copies == 1 else values.start[:2]
    last = values.last if copies == 1 else values.last.max(keepdims=True) % shared
    found: list[Floats32] = []
    notes: list[str] = []
    for name in names:
        column = grid.put(_finite(naming.source, name))
        column = column if values.kept is None else column[values.kept]
        if _has_nan(column):
            column, more = _filled(column, name, naming, choices, (start, last), known=known)
            notes += more
        found.append(column.astype(np.float32))
    return np.tile(np.stack(found, axis=1), (copies, 1)), notes


def _filled(
    column: Floats,
    name: str,
    naming: Naming,
    choices: Choices,
    borders: tuple[Ints, Ints],
    *,
    known: bool,
) -> tuple[Floats, list[str]]:
    """Return a covariate whose missing values repeat the one before.

    Raises:
        InputError: nothing comes before, or no choice was made.
    """
    start, last = borders
    missing = np.isnan(column)
    if not known:
        holes = np.flatnonzero(missing)
        missing[holes[holes > last[np.searchsorted(start, holes, side="right") - 1]]] = False
    filled = _forward(column, start)
    open_ = np.isnan(filled) & missing
    number = int(missing.sum())
    if number and (choices.gaps == "refuse" or open_.any()):
        place = int((open_ if open_.any() else missing).argmax())
        series = int(np.searchsorted(start, place, side="right")) - 1
        whose = f" of series {naming.ids[series]!r}" if len(start) > 2 else ""
        accepted = (
            "a value in the first row"
            if open_.any()
            else "gaps='mask' or gaps='ffill', which both repeat the covariate's value before"
        )
        raise InputError(
            f"{naming.source.path}, column {name!r}: the covariate is empty in row"
            f" {place - int(start[series]) + 1}{whose} ({count(number, 'value')} in all); accepted"
            f" are values in every row, or {accepted}"
        )
    notes = [f"{name}: {count(number, 'missing value')} repeat the one before"] if number else []
    return np.nan_to_num(filled, nan=0.0), notes


def _static(source: Source, names: tuple[str, ...], rows: Rows) -> tuple[Floats32, tuple[str, ...]]:
    """Return the facts of each series and their names; text becomes one column a value.

    Raises:
        InputError: a fact is missing or differs between the rows of a series.
    """
    n_series = len(rows.ids)
    found: list[Floats] = []
    labels: list[str] = []
    for name in names:
        column = source.column(name)
        code = rows.codes()
        head = np.full(n_series, -1)
        head[code[::-1]] = np.arange(len(code))[::-1]
        own = column.gather(head)
        if own.null_count():
            row = int(head[own.is_null().arg_max() or 0])
            raise InputError(
                f"{source.at(row, name)} is empty; accepted is a fact for every series"
            )
        differs = column.ne_missing(own.gather(code))
        if differs.any():
            row = differs.arg_max() or 0
            raise InputError(
                f"{source.at(row, name)} holds {column[row]!r} but {own[int(code[row])]!r} before"
                f" in series {rows.ids[code[row]]!r}; accepted is one value a series, or the"
                " column as past= or future="
            )
        if columns.is_number(own):
            found.append(columns.numbers(own, source, name))
            labels.append(name)
            continue
        for value in own.cast(pl.String).unique().sort():
            found.append((own.cast(pl.String) == value).to_numpy().astype(np.float64))
            labels.append(f"{name}={value}")
    if not found:
        return np.zeros((n_series, 0), dtype=np.float32), ()
    return np.stack(found, axis=1).astype(np.float32), tuple(labels)


def _stamps(grid: Grid, values: _Values, n_series: int) -> tuple[Ints, Ints | None]:
    """Return the first stamp of each series, and all stamps where rows were taken in order."""
    copies = n_series // len(grid.first)
    if grid.frequency.kind != "order":
        return at(grid.frequency, np.tile(grid.first, copies), values.lead), None
    if grid.stamps is None:
        return np.zeros(n_series, dtype=np.int64), None
    kept = grid.stamps if values.kept is None else grid.stamps[values.kept]
    stamps = np.tile(kept, copies)
    return stamps[values.start[:-1]], stamps


def _content_hash(
    frequency: Frequency,
    names: tuple[tuple[str, ...], ...],
    arrays: tuple[npt.NDArray[np.generic] | None, ...],
) -> str:
    digest = hashlib.sha256(repr((frequency, names[1:])).encode())
    digest.update("\x1f".join(names[0]).encode())
    for values in arrays:
        if values is not None:
            digest.update(repr((values.dtype.str, values.shape)).encode())
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
