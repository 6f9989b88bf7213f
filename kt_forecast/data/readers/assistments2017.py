"""ASSISTments longitudinal data of the 2017 competition: one row an action on a problem."""

from pathlib import Path

from kt_forecast.data.readers import ONE_CONCEPT, RawTable
from kt_forecast.data.readers._files import filled, has_columns, number, open_sheet
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

NAME = "assistments2017"
DESCRIPTION = "ASSISTments 2017 competition CSV (anonymized_full_release_competition_dataset)"
COLUMNS = (
    "studentId",
    "problemId",
    "skill",
    "correct",
    "startTime",
    "timeTaken",
    "hintCount",
    "attemptCount",
)


def matches(path: Path) -> bool:
    """Tell whether the header is that of the competition file."""
    return has_columns(path, ",", COLUMNS)


def read(path: Path) -> RawTable:
    """Translate the file; ``startTime`` is in seconds."""
    sheet = open_sheet(path, ",", COLUMNS)
    frame = sheet.frame.select(
        LINE,
        filled("studentId").alias(STUDENT),
        filled("problemId").alias(QUESTION),
        filled("skill").alias(CONCEPTS),
        filled("correct").alias(RESPONSE),
        (number("startTime") * 1000).cast(int, strict=False).alias(TIME),
        number("timeTaken").alias(ELAPSED),
        number("attemptCount").alias(ATTEMPTS),
        number("hintCount").alias(HINTS),
    )
    return RawTable(frame, str(path), separator=ONE_CONCEPT, notes=sheet.notes)
