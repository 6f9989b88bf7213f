"""Load interactions from wherever the user has them: a file, a folder, a frame, a name."""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from kt_forecast.data import readers
from kt_forecast.data.cards import card_names, find_data, read_card
from kt_forecast.data.check import check
from kt_forecast.data.interactions import Interactions
from kt_forecast.data.merging import Repeats
from kt_forecast.data.readers import RawTable, long_table
from kt_forecast.errors import InputError
from kt_forecast.schema import COLUMNS, LINE

if TYPE_CHECKING:
    import pandas as pd

_PART_ENDINGS = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")


def load(
    source: "str | Path | pl.DataFrame | pl.LazyFrame | pd.DataFrame",
    *,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",  # noqa: A002
    separator: str | None = None,
    name: str | None = None,
    min_interactions: int = 1,
    repeats: Repeats = "auto",
    asking: bool = False,
) -> Interactions:
    """Return checked interactions.

    Args:
        source: a data frame, a file, a folder, or the name of a data set with a card.
        columns: canonical column name to the source's own; names that agree need no entry.
        format: a reader's name, or ``auto`` to judge by content.
        separator: joins several concepts in one text value.
        name: short name for reports; the file's name by default.
        min_interactions: students with fewer steps are left out.
        repeats: what to do with rows that repeat the student's previous question.
        asking: for predictions: rows without a response are accepted, and `Interactions.source`
            and `Interactions.asked` tell what became of every row.

    Raises:
        InputError: the source cannot be found, read or used.
    """
    columns = dict(columns or {})
    if isinstance(source, str) and source in card_names():
        card = read_card(source)
        if card.task != "knowledge_tracing":
            raise InputError(
                f"{source!r} is a data set for {card.task}, not of students' answers; accepted are"
                " those for knowledge_tracing"
            )
        name = name or source
        source = find_data(source)
        columns = columns or dict(card.columns)
        separator = separator or card.separator
        repeats = card.repeats if repeats == "auto" else repeats
        format = card.format if format == "auto" else format  # noqa: A001
    if isinstance(source, str | Path):
        raw = read(Path(source), columns=columns, format=format)
        name = name or Path(source).name.split(".")[0]
    else:
        raw = RawTable(_rename(_lazy(source), columns), "the data frame")
    if separator is not None:
        raw = replace(raw, separator=separator)
    return check(
        raw,
        name or "frame",
        min_interactions=min_interactions,
        repeats=repeats,
        names=columns,
        asking=asking,
    )


def read(path: Path, *, columns: Mapping[str, str], format: str) -> RawTable:  # noqa: A002
    """Read a file or folder in a named format, or in the one that it looks like.

    Raises:
        InputError: there is no such file, data set or format.
    """
    if not path.exists():
        near = get_close_matches(str(path), card_names(), n=1)
        known = f"did you mean {near[0]!r}?" if near else ", ".join(card_names()) or "none is here"
        raise InputError(
            f"{path}: no such file or folder; accepted are paths, data frames and data sets with"
            f" a card ({known})"
        )
    parts = _parts(path) if format in {"auto", long_table.NAME} else []
    if not parts:
        return readers.read(path, format, dict(columns) or None)
    tables = [readers.read(part, long_table.NAME, dict(columns) or None) for part in parts]
    frames = [table.frame.drop(LINE, strict=False) for table in tables]
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    union = _union(frames, parts)
    names = {own: column for table in tables for own, column in table.names.items()}
    return RawTable(union, str(path), notes=tuple(notes), names=names, parts=tuple(tables))


def _union(frames: list[pl.LazyFrame], parts: list[Path]) -> pl.LazyFrame:
    """Put the parts of one table under each other.

    Raises:
        InputError: a part has other columns than the first, or a column of another type.
    """
    union = pl.concat(frames, how="vertical_relaxed")
    try:
        union.collect_schema()
    except pl.exceptions.PolarsError as error:
        first, *others = [dict(frame.collect_schema()) for frame in frames]
        for part, other in zip(parts[1:], others, strict=True):
            column = next((c for c in {**first, **other} if first.get(c) != other.get(c)), None)
            if column:
                seen, wanted = other.get(column, "missing"), first.get(column, "missing")
                raise InputError(
                    f"{part}, column {column}, is {seen} but {wanted} in {parts[0].name}; accepted"
                    " are parts of the same columns and types"
                ) from error
        raise InputError(
            f"{parts[0].parent}: the parts do not make one table ({error}); accepted are parts of"
            " the same columns and types"
        ) from error
    return union


def _parts(path: Path) -> list[Path]:
    """Return the parts of one table that lie in a folder, in name order; none if it is none."""
    if not path.is_dir() or any(reader.matches(path) for reader in readers.readers().values()):
        return []
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name[0] not in "._")
    for ending in _PART_ENDINGS:
        if files and all(file.name.lower().endswith(ending) for file in files):
            return files
    return []


def _lazy(source: Any) -> pl.LazyFrame:  # noqa: ANN401
    """Return a polars or pandas frame as a lazy frame.

    Raises:
        InputError: it is no data frame, or a column of it mixes types.
    """
    if isinstance(source, pl.DataFrame | pl.LazyFrame):
        return source.lazy()
    if type(source).__module__.split(".")[0] != "pandas":
        raise InputError(
            f"a {type(source).__name__} is no table; accepted are a path, a pandas or polars"
            " data frame, and the name of a data set with a card"
        )
    columns = {}
    for column in source.columns:
        try:
            columns[str(column)] = pl.from_pandas(source[column])
        except (TypeError, ValueError, ArithmeticError, pl.exceptions.PolarsError) as error:
            raise InputError(
                f"the data frame, column {str(column)!r}, mixes types ({error}); accepted is one"
                " type a column, for example text"
            ) from error
    return pl.LazyFrame(columns)


def _rename(frame: pl.LazyFrame, columns: Mapping[str, str]) -> pl.LazyFrame:
    """Select the columns of the schema under their canonical names.

    Raises:
        InputError: a name is not of the schema, or a column that was named is not there.
    """
    present = frame.collect_schema().names()
    for canonical, own in columns.items():
        for name, known in ((canonical, COLUMNS), (own, present)):
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(known)}"
                raise InputError(f"the data frame: no column {name!r}; {hint}")
    kept = [column for column in COLUMNS if column in present and column not in columns]
    return frame.select(
        *(pl.col(own).alias(canonical) for canonical, own in columns.items()),
        *(pl.col(column) for column in kept),
    )
