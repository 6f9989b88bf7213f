"""pyKT's fold tables: a student or a chunk of one a row, with comma-joined sequences.

A question starts where ``is_repeat`` is 0 and the rows after it repeat it for its other concepts:
they get one order, so that the door makes one interaction of them. The chunks of a student follow
each other and one may begin inside a question.
"""

from pathlib import Path

import polars as pl

from kt_forecast.data.readers import RawTable
from kt_forecast.data.readers._files import find, has_columns, header, open_sheet
from kt_forecast.errors import InputError
from kt_forecast.schema import (
    CONCEPTS,
    ELAPSED,
    FOLD,
    LINE,
    ORDER,
    QUESTION,
    RESPONSE,
    STUDENT,
    TEST_FOLD,
    TIME,
)

NAME = "pykt_folds"
DESCRIPTION = (
    "pyKT fold CSV (fold, uid, questions, concepts, responses, ...), or the folder of the pair"
)
COLUMNS = ("fold", "uid", "responses")
SEQUENCES = (
    "questions",
    "concepts",
    "responses",
    "timestamps",
    "usetimes",
    "selectmasks",
    "is_repeat",
)
PADDING = "-1"
PAIRS = (
    ("train_valid_quelevel", "test_quelevel"),
    ("train_valid", "test"),
    ("train_valid_sequences_quelevel", "test_quelevel"),
    ("train_valid_sequences", "test"),
    ("train_valid_sequences_quelevel", "test_sequences_quelevel"),
    ("train_valid_sequences", "test_sequences"),
)
"""Names of the training and test part, whole questions before concept rows, whole students before
chunks."""


def matches(path: Path) -> bool:
    """Tell whether the file, or the training part in the folder, has folds and sequences."""
    parts = _pair(path) if path.is_dir() else [path]
    return bool(parts) and _fits(parts[0])


def read(path: Path) -> RawTable:
    """Translate a table, or a pair of them with the test part as `kt_forecast.schema.TEST_FOLD`.

    Raises:
        InputError: the folder holds no pair, or the sequences of a row differ in length.
    """
    if not path.is_dir():
        frame, notes = _part(path, None)
        return RawTable(_events(frame), str(path), notes=notes)
    parts = _pair(path)
    if not parts:
        raise InputError(
            f"{path} holds no pair of fold tables; accepted are "
            + " or ".join(f"{train}.csv with {test}.csv" for train, test in PAIRS)
            + "."
        )
    (train, notes), (test, more) = _part(parts[0], None), _part(parts[1], TEST_FOLD)
    both = pl.concat([train, test], how="diagonal")
    note = f"The students of {parts[1].name} are the published test students."
    return RawTable(_events(both), str(path), notes=(*notes, *more, note))


def _fits(path: Path) -> bool:
    return has_columns(path, ",", COLUMNS) and bool(
        {"questions", "concepts"} & set(header(path, ","))
    )


def _pair(folder: Path) -> list[Path]:
    for names in PAIRS:
        parts = [file for name in names for file in find(folder, rf"{name}\.csv")]
        if len(parts) == 2 and all(_fits(part) for part in parts):
            return parts
    return []


def _part(path: Path, fold: int | None) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    sheet = open_sheet(path, ",", COLUMNS)
    present = [name for name in SEQUENCES if name in sheet.columns]
    lists = sheet.frame.select(
        LINE, "fold", "uid", pl.col(present).str.strip_chars(", ").str.split(",")
    )
    _same_lengths(path, lists, present)
    real = pl.col("responses") != PADDING
    if "selectmasks" in present:
        real &= pl.col("selectmasks") != PADDING
    rows = lists.explode(present).with_columns(pl.col(present).str.strip_chars()).filter(real)
    known = {
        QUESTION: pl.col("questions"),
        CONCEPTS: pl.when(pl.col("concepts") != PADDING).then("concepts"),
        TIME: pl.col("timestamps").cast(pl.Int64, strict=False),
        ELAPSED: pl.col("usetimes").cast(pl.Float64, strict=False) / 1000,
        "starts": pl.col("is_repeat") != "1",
    }
    columns = [
        expr.alias(name) for name, expr in known.items() if expr.meta.root_names()[0] in present
    ]
    number = pl.col("fold").cast(pl.Int64, strict=False) if fold is None else pl.lit(fold, pl.Int64)
    frame = rows.select(
        LINE,
        pl.col("uid").alias(STUDENT),
        pl.col("responses").alias(RESPONSE),
        number.alias(FOLD),
        *columns,
    )
    return frame, sheet.notes


def _events(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Number the events of each student, so that the rows of one question share their order."""
    columns = frame.collect_schema().names()
    if "starts" in columns:
        index = pl.col("starts").cast(pl.Int64).cum_sum().over(STUDENT)
        return frame.with_columns(index.alias(ORDER)).drop("starts")
    if QUESTION in columns:
        return frame
    return frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).over(STUDENT).alias(ORDER))


def _same_lengths(path: Path, lists: pl.LazyFrame, present: list[str]) -> None:
    length = pl.col("responses").list.len()
    bad = (
        lists.filter(pl.any_horizontal(pl.col(present).list.len().fill_null(0) != length))
        .select(LINE, pl.col(present).list.len())
        .head(1)
        .collect()
    )
    if bad.height:
        row = bad.row(0, named=True)
        column = next(name for name in present if row[name] != row["responses"])
        raise InputError(
            f"{path}, line {row[LINE]}, column {column}: {row[column] or 0} values stand beside "
            f"{row['responses'] or 0} responses; sequences of equal length are needed."
        )
