"""pyKT's ``data.txt``: six lines a student, where a line ``NA`` means that the field is absent."""

from pathlib import Path

import polars as pl

from kt_forecast.data.readers import RawTable
from kt_forecast.data.readers._lines import lines_a_student, steps, students
from kt_forecast.schema import CONCEPTS, ELAPSED, LINE, ORDER, QUESTION, RESPONSE, STUDENT, TIME

NAME = "pykt_lines"
DESCRIPTION = "pyKT data.txt: id and length, questions, concepts, responses, times, durations"
LINES = (STUDENT, QUESTION, CONCEPTS, RESPONSE, TIME, ELAPSED)


def matches(path: Path) -> bool:
    """Tell whether the first lines are whole students of six lines."""
    return path.is_file() and lines_a_student(path) == len(LINES)


def read(path: Path) -> RawTable:
    """Translate the file; times and durations are in milliseconds, and every step is one event."""
    table, notes = students(path, LINES)
    frame = steps(path, table, LINES[1:], RESPONSE)
    present = set(frame.collect_schema().names())
    columns = {
        QUESTION: _name(pl.col(QUESTION)),
        CONCEPTS: pl.col(CONCEPTS).str.split("_").list.eval(_name(pl.element())),
        TIME: pl.col(TIME).cast(pl.Int64, strict=False),
        ELAPSED: pl.col(ELAPSED).cast(pl.Float64, strict=False) / 1000,
    }
    frame = frame.select(
        LINE,
        pl.col(STUDENT).str.replace(r",\d+$", ""),
        RESPONSE,
        *(expr.alias(name) for name, expr in columns.items() if name in present),
    )
    # Concepts are joined within a step, so that no two rows are one event.
    order = pl.int_range(pl.len(), dtype=pl.Int64).over(STUDENT)
    return RawTable(frame.with_columns(order.alias(ORDER)), str(path), notes=notes)


def _name(text: pl.Expr) -> pl.Expr:
    """Give back the underscores and commas that the format writes in another way."""
    text = text.str.replace_all("####", "_", literal=True)
    return text.str.replace_all("@@@@", ",", literal=True)
