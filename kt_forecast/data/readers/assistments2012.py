"""ASSISTments 2012-2013 with affect predictions."""

from pathlib import Path

from kt_forecast.data.readers import ONE_CONCEPT, RawTable
from kt_forecast.data.readers._files import filled, has_columns, moment, number, open_sheet
from kt_forecast.schema import (
    ATTEMPTS,
    CONCEPTS,
    ELAPSED,
    HINTS,
    LINE,
    QUESTION,
    RESPONSE,
    STUDENT,
    TIME,
)

NAME = "assistments2012"
DESCRIPTION = "ASSISTments 2012-2013 CSV (2012-2013-data-with-predictions)"
COLUMNS = (
    "user_id",
    "problem_id",
    "skill_id",
    "start_time",
    "correct",
    "ms_first_response",
    "attempt_count",
    "hint_count",
)


def matches(path: Path) -> bool:
    """Tell whether the header is that of the 2012-2013 file."""
    return has_columns(path, ",", COLUMNS)


def read(path: Path) -> RawTable:
    """Translate the file; partial credit in ``correct`` counts as not correct."""
    sheet = open_sheet(path, ",", COLUMNS)
    frame = sheet.frame.select(
        LINE,
        filled("user_id").alias(STUDENT),
        filled("problem_id").alias(QUESTION),
        filled("skill_id").str.replace(r"\.0$", "").alias(CONCEPTS),
        number("correct").floor().alias(RESPONSE),
        moment("start_time").alias(TIME),
        (number("ms_first_response") / 1000).alias(ELAPSED),
        number("attempt_count").alias(ATTEMPTS),
        number("hint_count").alias(HINTS),
    )
    note = "Partial credit, a fraction in column correct, counts as a response that is not correct."
    return RawTable(frame, str(path), separator=ONE_CONCEPT, notes=(*sheet.notes, note))
