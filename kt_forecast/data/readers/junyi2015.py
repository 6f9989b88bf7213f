"""Junyi Academy: the problem log, and the exercise table that knows each exercise's topic."""

from pathlib import Path

from kt_forecast.data.readers import ONE_CONCEPT, RawTable
from kt_forecast.data.readers._files import filled, find, has_columns, number, open_sheet, whole
from kt_forecast.errors import InputError
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

NAME = "junyi2015"
DESCRIPTION = "Junyi problem log CSV, with the exercise table beside it; or the folder of both"
COLUMNS = ("user_id", "exercise", "time_done", "time_taken", "correct", "count_attempts")
TABLE_COLUMNS = ("name", "topic", "prerequisites")
TRUTH = {"true": "1", "false": "0"}


def matches(path: Path) -> bool:
    """Tell whether the file, or one file of the folder, has the header of the problem log."""
    return bool(_logs(path))


def read(path: Path) -> RawTable:
    """Translate the log; ``time_done`` is in microseconds.

    Raises:
        InputError: the folder does not hold exactly one problem log.
    """
    logs = _logs(path) if path.is_dir() else [path]
    if len(logs) != 1:
        raise InputError(f"{path} holds {len(logs)} problem logs; accepted is a folder with one.")
    log = open_sheet(logs[0], ",", COLUMNS)
    correct = filled("correct").str.to_lowercase()
    frame = log.frame.select(
        LINE,
        filled("user_id").alias(STUDENT),
        filled("exercise").alias(QUESTION),
        correct.replace(TRUTH).alias(RESPONSE),
        (whole("time_done") // 1000).alias(TIME),
        number("time_taken").alias(ELAPSED),
        number("count_attempts").alias(ATTEMPTS),
        *([number("count_hints").alias(HINTS)] if "count_hints" in log.columns else []),
    )
    tables = [file for file in _files(logs[0].parent) if has_columns(file, ",", TABLE_COLUMNS)]
    if not tables:
        note = "No exercise table lies beside the log, so that no concepts are known."
        return RawTable(frame, str(path), separator=ONE_CONCEPT, notes=(*log.notes, note))
    table = open_sheet(tables[0], ",", TABLE_COLUMNS)
    topics = table.frame.select(
        filled("name").alias(QUESTION), filled("topic").alias(CONCEPTS)
    ).unique(QUESTION, keep="first", maintain_order=True)
    frame = frame.join(topics, on=QUESTION, how="left", maintain_order="left")
    return RawTable(frame, str(path), separator=ONE_CONCEPT, notes=(*log.notes, *table.notes))


def _files(folder: Path) -> list[Path]:
    return find(folder, r".*\.csv")


def _logs(path: Path) -> list[Path]:
    files = _files(path) if path.is_dir() else [path]
    return [file for file in files if has_columns(file, ",", COLUMNS)]
