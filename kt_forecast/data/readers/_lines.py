"""Files of several lines a student, each a comma-joined sequence."""

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from kt_forecast.data.readers._files import peek, source
from kt_forecast.errors import InputError
from kt_forecast.schema import LINE

ANSWERS = {3: 2, 4: 3, 6: 3}
"""Lines a student: which of them, from 0, holds the responses."""
SAMPLE = 60
ABSENT = "NA"
_HEAD = {3: r"[^,]+(,[^,]+)?", 4: r"[^,]+(,[^,]+)?", 6: r".+,\d+"}


def lines_a_student(path: Path) -> int | None:
    """Return 3, 4 or 6 where the file has so many lines a student, judged by its first ones."""
    lines = [line.strip() for line in peek(path, SAMPLE)]
    while lines and not lines[-1]:
        lines.pop()
    fits = [size for size in ANSWERS if lines and _fits(lines, size)]
    return max(fits, default=None)


def students(path: Path, names: Sequence[str]) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return one row a student: ``line`` of its first line, and its lines under ``names``.

    Raises:
        InputError: the file is missing, empty, cut off, or ends within a student.
    """
    scanned, _, notes = source(path)
    text = pl.col("text").str.strip_chars("\ufeff \t\r").str.strip_chars_end(",")
    lines = (
        pl.scan_lines(scanned, name="text", row_index_name=LINE, row_index_offset=1)
        .select(LINE, text)
        .collect()
    )
    filled = lines.filter(pl.col("text") != "")
    last = 0 if filled.is_empty() else int(filled[LINE][-1])
    size = len(names)
    lines = lines.head(last)
    if last % size:
        raise InputError(
            f"{path}, line {last}: the file ends within a student; {size} lines a student "
            f"({', '.join(names)}) are needed."
        )
    columns = [lines[place::size]["text"].alias(name) for place, name in enumerate(names)]
    return pl.DataFrame([lines[::size][LINE], *columns]), notes


def steps(path: Path, table: pl.DataFrame, columns: Sequence[str], answers: str) -> pl.LazyFrame:
    """Return one row a step, from one row a student; a line ``NA`` gives an absent value.

    Raises:
        InputError: a line has another number of values than the responses of its student.
    """
    present = [name for name in columns if not (table[name] == ABSENT).all()]
    lists = table.drop(set(columns) - set(present)).with_columns(pl.col(present).str.split(","))
    length = pl.col(answers).list.len()
    for name in present:
        absent = (pl.col(name).list.len() == 1) & (pl.col(name).list.first() == ABSENT)
        bad = lists.filter(~absent & (pl.col(name).list.len() != length)).head(1)
        if bad.height:
            row = bad.row(0, named=True)
            raise InputError(
                f"{path}, line {row[LINE] + 1 + columns.index(name)} ({name}): {len(row[name])} "
                f"values stand beside {len(row[answers])} responses; equally long lines are needed."
            )
        blank = pl.lit(None, dtype=pl.String).repeat_by(length)
        lists = lists.with_columns(pl.when(absent).then(blank).otherwise(name).alias(name))
    rows = lists.lazy().explode(present)
    return rows.filter(pl.col(answers) != "").with_columns(pl.col(present).str.strip_chars())


def _fits(lines: list[str], size: int) -> bool:
    if len(lines) < SAMPLE and len(lines) % size:
        return False
    blocks = [lines[start : start + size] for start in range(0, len(lines) - size + 1, size)]
    return bool(blocks) and all(_is_student(block, size) for block in blocks)


def _is_student(block: list[str], size: int) -> bool:
    head, *body = block
    parts = [line.rstrip(",").split(",") for line in body]
    answers = parts[ANSWERS[size] - 1]
    if not re.fullmatch(_HEAD[size], head) or not set(answers) <= {"0", "1"}:
        return False
    declared = head.rsplit(",", 1)[-1]
    if (size == 6 or "," not in head) and declared != str(len(answers)):
        return False
    return all(len(part) == len(answers) or (size == 6 and part == [ABSENT]) for part in parts)
