"""ASSISTments 2009-2010 skill builder: collapsed or one row a skill, both with one header.

The collapsed file joins the skills of a problem by ``_``; the other repeats the row under the same
``order_id``, which is carried as the order, so that the door merges the repeats.
"""

from pathlib import Path

from kt_forecast.data.readers import RawTable
from kt_forecast.data.readers._files import filled, has_columns, number, open_sheet, whole
from kt_forecast.schema import (
    ATTEMPTS,
    CONCEPTS,
    ELAPSED,
    HINTS,
    LINE,
    ORDER,
    QUESTION,
    RESPONSE,
    STUDENT,
)

NAME = "assistments2009"
DESCRIPTION = "ASSISTments 2009-2010 skill builder CSV, collapsed (skills joined by _) or not"
COLUMNS = (
    "order_id",
    "user_id",
    "problem_id",
    "correct",
    "skill_id",
    "attempt_count",
    "hint_count",
    "ms_first_response",
)


def matches(path: Path) -> bool:
    """Tell whether the header is that of the skill builder file."""
    return has_columns(path, ",", COLUMNS)


def read(path: Path) -> RawTable:
    """Translate the file; the only order is ``order_id``, there is no time."""
    sheet = open_sheet(path, ",", COLUMNS)
    frame = sheet.frame.select(
        LINE,
        filled("user_id").alias(STUDENT),
        filled("problem_id").alias(QUESTION),
        filled("skill_id").alias(CONCEPTS),
        filled("correct").alias(RESPONSE),
        whole("order_id").alias(ORDER),
        (number("ms_first_response") / 1000).alias(ELAPSED),
        number("attempt_count").alias(ATTEMPTS),
        number("hint_count").alias(HINTS),
    )
    return RawTable(frame, str(path), separator="_", notes=sheet.notes)
