"""Load series from wherever the user has them: a file, a frame, a name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import polars as pl

from kt_forecast.data.cards import Card, card_names, find_data, read_card
from kt_forecast.data.readers import listed
from kt_forecast.data.series.check import Choices, Roles, Stamps, check
from kt_forecast.data.series.columns import are_stamps
from kt_forecast.data.series.grid import Gaps
from kt_forecast.data.series.source import Source, open_source
from kt_forecast.data.series.table import SeriesTable
from kt_forecast.errors import InputError
from kt_forecast.schema import DS, UNIQUE_ID, Y

if TYPE_CHECKING:
    import pandas as pd

_TASK = "forecasting"
_COLUMNS = (UNIQUE_ID, DS, Y)


@dataclass(frozen=True)
class _Declared:
    """What the user said of the columns."""

    columns: Mapping[str, str]
    past: tuple[str, ...]
    future: tuple[str, ...]
    static: tuple[str, ...]


def load(  # noqa: PLR0913  # the choices of a user, each by its name
    source: "SeriesTable | str | Path | pl.DataFrame | pl.LazyFrame | pd.DataFrame | pd.Series",
    *,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",  # noqa: A002  # the word that users say
    freq: str | int | None = None,
    stamps: str = "auto",
    gaps: str = "refuse",
    past: Sequence[str] = (),
    future: Sequence[str] = (),
    static: Sequence[str] = (),
    season: int | None = None,
    name: str | None = None,
    asking: bool = False,
) -> SeriesTable:
    """Return checked series.

    Args:
        source: a file, a data frame, the name of a data set with a card, or checked series, which
            are returned as they are.
        columns: ``unique_id``, ``ds`` or ``y`` to the table's own name; names that agree need no
            entry.
        format: ``long`` has a row for each series and stamp, ``wide`` a column for each series;
            ``auto`` judges by the columns.
        freq: the step between stamps; detected where it is None.
        stamps: ``dates``, or ``order``, which takes rows as equally spaced whatever their stamps
            say; ``auto`` leaves it to the card, if there is one.
        gaps: what becomes of missing values inside a series: ``refuse``, ``mask`` (they stay nan),
            or ``ffill`` (they repeat the last value before them).
        past: covariates known up to the origin.
        future: covariates known in advance.
        static: facts of a series, constant in its rows; text becomes one column a value.
        season: steps of the cycle; by default the one that the step suggests.
        name: short name for reports; the file's name by default.
        asking: for predictions: a series may have a single value, and nothing is said of scales.

    Raises:
        InputError: the source cannot be found, read or used.
    """
    if isinstance(source, SeriesTable):
        return source
    layout = format
    declared = _Declared(dict(columns or {}), tuple(past), tuple(future), tuple(static))
    if isinstance(source, str) and not Path(source).is_file() and source in card_names():
        card = _card(source)
        name, source = name or source, find_data(source)
        declared = _Declared(
            declared.columns or card.columns,
            declared.past or card.past,
            declared.future or card.future,
            declared.static or card.static,
        )
        layout = card.format if layout == "auto" else layout
        stamps = card.stamps if stamps == "auto" else stamps
        gaps = card.gaps if gaps == "refuse" else gaps
        freq, season = freq or card.freq, season or card.season
    for word, value, known in (
        ("format", layout, ("auto", "long", "wide")),
        ("stamps", stamps, ("auto", "dates", "order")),
        ("gaps", gaps, ("refuse", "mask", "ffill")),
    ):
        if value not in known:
            raise InputError(f"{word}={value!r} is unknown; accepted are {', '.join(known)}")
    opened = open_source(source)
    if name is None:
        name = Path(source).name.split(".")[0] if isinstance(source, str | Path) else "frame"
    choices = Choices(
        name=name,
        freq=freq,
        stamps=cast("Stamps", stamps),
        gaps=cast("Gaps", gaps),
        season=season,
        asking=asking,
    )
    wide = _is_wide(opened, declared) if layout == "auto" else layout == "wide"
    roles, notes = (_wide_roles if wide else _long_roles)(opened, declared)
    return check(replace(opened, notes=(*opened.notes, *notes)), roles, choices, wide=wide)


def _card(name: str) -> Card:
    card = read_card(name)
    if card.task != _TASK:
        raise InputError(
            f"{name!r} is a data set for {card.task}, not of series; accepted are those for {_TASK}"
        )
    return card


def _is_wide(source: Source, declared: _Declared) -> bool:
    """Tell whether a table has a column for each series.

    Raises:
        InputError: it has a column of ids but none of values.
    """
    has = {c for c in _COLUMNS if c in source.names or c in declared.columns}
    if UNIQUE_ID in has and Y not in has:
        raise InputError(
            f"{source.path}: has {declared.columns.get(UNIQUE_ID, UNIQUE_ID)!r} but no column"
            f" {Y!r} among {listed(source.names)}; accepted is one of that name, or a mapping"
            f" (columns={{{Y!r}: NAME}})"
        )
    return Y not in has


def _mapped(source: Source, declared: _Declared) -> dict[str, str]:
    """Return the table's own name of every canonical column that it has.

    Raises:
        InputError: a column is mapped that does not exist.
    """
    for canonical, own in declared.columns.items():
        if canonical not in _COLUMNS:
            raise InputError(
                f"columns: {canonical!r} is none of {', '.join(_COLUMNS)}; covariates are named"
                " under past, future and static by the table's own names"
            )
        source.own(own, canonical)
    found = {column: column for column in _COLUMNS if column in source.names}
    return {**found, **declared.columns}


def _covariates(
    source: Source, declared: _Declared, taken: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the declared covariates.

    Raises:
        InputError: one does not exist, or is declared twice.
    """
    used = dict.fromkeys(taken, "the table's own")
    roles = {"past": declared.past, "future": declared.future, "static": declared.static}
    for role, names in roles.items():
        for name in names:
            source.own(name, role)
            if name in used:
                raise InputError(
                    f"{source.path}: column {name!r} is declared {role} and is {used[name]} too;"
                    " accepted is one use of a column"
                )
            used[name] = role
    return roles["past"], roles["future"], roles["static"]


def _long_roles(source: Source, declared: _Declared) -> tuple[Roles, list[str]]:
    """Return what the columns of a long table are for, and a note of those that are not read.

    Raises:
        InputError: there is no column of values.
    """
    mapped = _mapped(source, declared)
    if Y not in mapped:
        raise InputError(
            f"{source.path}: no column {Y!r} among {listed(source.names)}; accepted is one of that"
            f" name, or a mapping (columns={{{Y!r}: NAME}})"
        )
    ds = mapped.get(DS) or source.dated()
    taken = [name for name in (mapped.get(UNIQUE_ID), ds, mapped[Y]) if name is not None]
    past, future, static = _covariates(source, declared, taken)
    read = {*taken, *past, *future, *static}
    rest = [name for name in source.names if name not in read]
    notes = [f"not read, for no use was declared: {listed(rest)}"] if rest else []
    y = (mapped[Y],)
    ids = mapped.get(UNIQUE_ID)
    return Roles(ids=ids, ds=ds, y=y, past=past, future=future, static=static), notes


def _wide_roles(source: Source, declared: _Declared) -> tuple[Roles, list[str]]:
    """Return what the columns of a wide table are for.

    Raises:
        InputError: no column is left to be a series, or a fact of a series is declared.
    """
    mapped = _mapped(source, declared)
    ds = mapped.get(DS) or source.dated()
    if ds is None and source.names and are_stamps(source.head(source.names[0])):
        ds = source.names[0]
    if declared.static:
        raise InputError(
            f"{source.path}: a wide table, with a column for each series, holds no facts of a"
            " series; accepted is static= for a long table (unique_id, ds, y)"
        )
    past, future, _ = _covariates(source, declared, [] if ds is None else [ds])
    read = {ds, *past, *future}
    y = tuple(name for name in source.names if name not in read)
    if not y:
        raise InputError(
            f"{source.path}: no column is left to be a series among {listed(source.names)};"
            " accepted is a table with a column of numbers for each series"
        )
    return Roles(ids=None, ds=ds, y=y, past=past, future=future), []
