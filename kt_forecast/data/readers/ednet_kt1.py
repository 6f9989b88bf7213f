"""EdNet KT1: a folder with one file a student, and the questions with their right answers.

The questions of a bundle share ``solving_id`` and are put at one moment; they get the earliest
time of the bundle, so that the door sees them as one.
"""

from pathlib import Path

import polars as pl

from kt_forecast.data.readers import RawTable
from kt_forecast.data.readers._files import (
    filled,
    find,
    has_columns,
    number,
    open_sheet,
    readable,
    whole,
)
from kt_forecast.errors import InputError
from kt_forecast.schema import CONCEPTS, ELAPSED, QUESTION, RESPONSE, STUDENT, TIME

NAME = "ednet_kt1"
DESCRIPTION = (
    "EdNet KT1 folder: u*.csv a student, and questions.csv in it, beside it or in contents/"
)
COLUMNS = ("timestamp", "solving_id", "question_id", "user_answer", "elapsed_time")
QUESTION_COLUMNS = ("question_id", "correct_answer", "tags")
STUDENT_FILE = r"u\d+\.csv"
QUESTION_FILE = r"questions\.csv"
UNTAGGED = "-1"


def matches(path: Path) -> bool:
    """Tell whether the folder holds student files."""
    files = _students(path)
    return bool(files) and has_columns(files[0], ",", COLUMNS)


def read(path: Path) -> RawTable:
    """Translate the folder; a response is 1 where the answer is the right one.

    Raises:
        InputError: no student files or no list of questions are found.
    """
    files, lists = _students(path), _questions(path)
    if not files or not lists:
        raise InputError(
            f"{path} holds no {'file questions.csv' if files else 'student file such as u1.csv'}; "
            "accepted is the folder KT1 with questions.csv in it, beside it or in contents."
        )
    for file in files:
        if file.name.endswith(".gz"):
            readable(file)
    known = open_sheet(lists[0], ",", QUESTION_COLUMNS)
    open_sheet(files[0], ",", COLUMNS)
    answers = pl.scan_csv(
        files, infer_schema=False, include_file_paths="file", encoding="utf8-lossy", glob=False
    )
    questions = known.frame.select(
        filled("question_id").alias(QUESTION),
        filled("correct_answer").alias("right"),
        filled("tags"),
    )
    bundle = whole("timestamp").min().over("file", "solving_id")
    frame = (
        answers.with_columns(bundle.alias(TIME), filled("question_id").alias(QUESTION))
        .filter(filled("user_answer").is_not_null())
        .join(questions, on=QUESTION, how="inner", maintain_order="left")
        .select(
            pl.col("file").str.extract(r"([^/\\]+)\.csv(?:\.gz)?$").alias(STUDENT),
            QUESTION,
            pl.when(pl.col("tags") != UNTAGGED).then("tags").alias(CONCEPTS),
            (filled("user_answer") == pl.col("right")).cast(pl.Int8).alias(RESPONSE),
            TIME,
            (number("elapsed_time") / 1000).alias(ELAPSED),
        )
    )
    note = f"Rows without an answer and rows whose question {lists[0].name} lacks are left out."
    return RawTable(frame, str(path), separator=";", notes=(*known.notes, note))


def _students(path: Path) -> list[Path]:
    return find(path, STUDENT_FILE) or find(path / "KT1", STUDENT_FILE)


def _questions(path: Path) -> list[Path]:
    places = (path, path / "contents", path.parent, path.parent / "contents")
    return [file for place in places for file in find(place, QUESTION_FILE)]
