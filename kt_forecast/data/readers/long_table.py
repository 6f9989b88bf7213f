"""Any table with one row an interaction: CSV, TSV or Parquet, by canonical or mapped columns."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from kt_forecast.data.readers import RawTable, listed
from kt_forecast.data.readers._files import (
    DELIMITERS,
    FIRST_ROWS,
    PARQUET,
    header,
    open_sheet,
    tidied,
)
from kt_forecast.errors import InputError
from kt_forecast.schema import (
    ATTEMPTS,
    COLUMNS,
    CONCEPTS,
    ELAPSED,
    FOLD,
    HINTS,
    LINE,
    ORDER,
    QUESTION,
    REQUIRED,
    RESPONSE,
    STUDENT,
    TIME,
)

NAME = "long_table"
DESCRIPTION = "any CSV, TSV or Parquet with one row an interaction, its columns canonical or mapped"
FALLBACK = True
SYNONYMS = {
    STUDENT: ("student_id", "user", "user_id", "userid", "uid", "learner", "learner_id"),
    QUESTION: ("question_id", "questionid", "item", "item_id", "problem", "problem_id", "exercise"),
    CONCEPTS: ("concept", "concept_id", "skill", "skills", "skill_id", "kc", "kcs", "topic"),
    RESPONSE: ("correct", "is_correct", "answered_correctly", "label", "score"),
    TIME: ("timestamp", "datetime", "start_time", "time_ms"),
    ORDER: ("order_id", "log_id", "position"),
    ELAPSED: ("elapsed_seconds", "duration"),
    ATTEMPTS: ("attempt_count", "n_attempts"),
    HINTS: ("hint_count", "n_hints"),
    FOLD: (),
}


def matches(path: Path) -> bool:
    """Tell whether a student and a response can be found among the columns."""
    return path.is_file() and set(REQUIRED) <= set(_recognise(columns_of(path)))


def read(path: Path, columns: Mapping[str, str] | None = None) -> RawTable:
    """Translate the table.

    Args:
        path: a file.
        columns: canonical column to column of the file; those left out are found by name.

    Raises:
        InputError: the path is a folder, a mapped column is unknown or absent, or no column is
            known to hold the student or the response.
    """
    if not path.is_file():
        raise InputError(f"{path} is a folder; {NAME} needs a CSV, TSV or Parquet file.")
    present = columns_of(path)
    chosen = {**_recognise(present, set(columns or {})), **_mapped(path, present, columns or {})}
    if any(name not in chosen for name in REQUIRED):
        raise InputError(_lacking(path, present, chosen))
    frame, notes = _open(path, list(chosen.values()))
    selected = [_value(name, column, frame) for name, column in chosen.items()]
    if LINE in frame.collect_schema():
        selected.append(pl.col(LINE))
    guessed = [
        f"Column {column} is taken as {name}."
        for name, column in chosen.items()
        if name != column and name not in (columns or {})
    ]
    if TIME in chosen and _counts(chosen[TIME], frame):
        guessed.append(f"Whole numbers in column {chosen[TIME]} are taken as milliseconds.")
    delimiter = None if _is_parquet(path) else _separator(path)
    return RawTable(
        frame.select(selected),
        str(path),
        notes=(*notes, *guessed),
        delimiter=delimiter,
        names={name: column for name, column in chosen.items() if name != column},
    )


def lacking(path: Path) -> str | None:
    """Return the refusal of a table that seems to be of this format but lacks a column.

    A header with two canonical columns, or a Parquet file, can hardly be anything else.
    """
    present = columns_of(path)
    chosen = _recognise(present)
    alike = path.is_file() and (len(chosen) > 1 or _is_parquet(path))
    return _lacking(path, present, chosen) if alike else None


def _lacking(path: Path, present: tuple[str, ...], chosen: Mapping[str, str]) -> str:
    missing = [name for name in REQUIRED if name not in chosen]
    free = [column for column in present if column not in chosen.values()]
    mapping = " ".join(f"--column {name}=NAME" for name in missing)
    unsure = [
        f"{' or '.join(known)} could be {name}"
        for name in missing
        if len(known := [column for column in free if column.lower() in SYNONYMS[name]]) > 1
    ]
    where = path if _is_parquet(path) else f"{path}, line 1"
    return (
        f"{where}: no column is known to hold {' and '.join(missing)} among {listed(present)}"
        f"{''.join(f' ({text})' for text in unsure)}; accepted is a column of that name"
        f"{f', or a mapping {mapping} with NAME one of {listed(free)}' if free else ''}."
    )


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PARQUET)) == PARQUET


def _separator(path: Path) -> str:
    return max(DELIMITERS, key=lambda separator: len(header(path, separator)))


def columns_of(path: Path) -> tuple[str, ...]:
    """Return the columns of the file; none where they cannot be read."""
    if not _is_parquet(path):
        return header(path, _separator(path))
    try:
        return tuple(pl.read_parquet_schema(path))
    except (pl.exceptions.PolarsError, OSError):
        return ()


def _open(path: Path, wanted: list[str]) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    if _is_parquet(path):
        return pl.scan_parquet(path), ()
    sheet = open_sheet(path, _separator(path), wanted)
    return sheet.frame, sheet.notes


def _recognise(present: tuple[str, ...], mapped: set[str] | None = None) -> dict[str, str]:
    """Return the column of each canonical name: the name itself, else its one known synonym."""
    found = {}
    for name in COLUMNS:
        if name in (mapped or set()):
            continue
        known = [name] if name in present else [c for c in present if c.lower() in SYNONYMS[name]]
        if len(known) == 1:
            found[name] = known[0]
    return found


def _mapped(path: Path, present: tuple[str, ...], columns: Mapping[str, str]) -> dict[str, str]:
    strange = [name for name in columns if name not in COLUMNS]
    if strange:
        raise InputError(
            f"{path}: {', '.join(strange)} is no column of the schema; "
            f"a mapping is accepted for {', '.join(COLUMNS)}."
        )
    absent = [column for column in columns.values() if column not in present]
    if absent:
        raise InputError(
            f"{path}, line 1: there is no column {', '.join(absent)}; accepted in the mapping are "
            f"{listed(present)}."
        )
    return dict(columns)


def _value(name: str, column: str, frame: pl.LazyFrame) -> pl.Expr:
    """Return a column under its canonical name, times as milliseconds."""
    value, kind = pl.col(column), frame.collect_schema()[column]
    if kind == pl.String:
        value = tidied(column)
    elif isinstance(kind, pl.Datetime) and name == TIME:
        value = value.dt.epoch("ms")
    return value.alias(name)


def _counts(column: str, frame: pl.LazyFrame) -> bool:
    """Tell from its first rows whether a column of times holds numbers, not dates."""
    first = frame.select(column).head(FIRST_ROWS).collect().to_series()
    if first.dtype != pl.String:
        return first.dtype.is_numeric()
    return bool(first.str.contains(r"^\s*[+-]?\d+(\.\d*)?\s*$").any())
