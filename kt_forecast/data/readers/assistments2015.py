"""ASSISTments 2015 skill builders: no questions, the problem set stands for the concept."""

from pathlib import Path

import polars as pl

from kt_forecast.data.readers import ONE_CONCEPT, RawTable
from kt_forecast.data.readers._files import filled, header, number, open_sheet, whole
from kt_forecast.schema import CONCEPTS, LINE, ORDER, RESPONSE, STUDENT

NAME = "assistments2015"
DESCRIPTION = "ASSISTments 2015 CSV (2015_100_skill_builders_main_problems)"
COLUMNS = ("user_id", "log_id", "sequence_id", "correct")


def matches(path: Path) -> bool:
    """Tell whether the header has the problem set and no problem."""
    columns = header(path, ",")
    return set(COLUMNS) <= set(columns) and "problem_id" not in columns


def read(path: Path) -> RawTable:
    """Translate the file; rows with partial credit are left out, as published studies do."""
    sheet = open_sheet(path, ",", COLUMNS)
    credit = number("correct")
    # A row without any number stays, so that the door can name its line.
    fractional = credit.is_between(0, 1, closed="none").fill_null(value=False)
    frame = sheet.frame.filter(~fractional).select(
        LINE,
        filled("user_id").alias(STUDENT),
        filled("sequence_id").alias(CONCEPTS),
        pl.coalesce(credit.cast(pl.Int64, strict=False).cast(pl.String), "correct").alias(RESPONSE),
        whole("log_id").alias(ORDER),
    )
    note = "Rows with partial credit, a fraction in column correct, are left out."
    return RawTable(frame, str(path), separator=ONE_CONCEPT, notes=(*sheet.notes, note))
