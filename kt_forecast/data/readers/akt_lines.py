"""Line files of AKT and DKVMN: three or four lines a student, or a folder of such test parts.

Nothing tells a question that is repeated for its second concept from one that is tried again; rows
keep the order of the file, and the door judges by them.
"""

import re
from pathlib import Path

import polars as pl

from kt_forecast.data.readers import RawTable
from kt_forecast.data.readers._files import find, stem
from kt_forecast.data.readers._lines import lines_a_student, steps, students
from kt_forecast.errors import InputError
from kt_forecast.schema import CONCEPTS, FOLD, LINE, QUESTION, RESPONSE, STUDENT

NAME = "akt_lines"
DESCRIPTION = (
    "AKT or DKVMN file, three or four lines a student (id, questions if any, concepts, responses)"
)
LINES = {3: (STUDENT, CONCEPTS, RESPONSE), 4: (STUDENT, QUESTION, CONCEPTS, RESPONSE)}
FILE = r".*\.(csv|txt)"
TEST_PART = r"test_?\d+$"


def matches(path: Path) -> bool:
    """Tell whether the first lines, of the file or of all files, are whole students."""
    files = _files(path)
    return bool(files) and all(lines_a_student(file) in LINES for file in files)


def read(path: Path) -> RawTable:
    """Translate a file, or the files of a folder as one table with the number of the part as fold.

    Raises:
        InputError: a file does not have three or four lines a student.
    """
    files = _files(path)
    parts = [_part(file, place, folder=path.is_dir()) for place, file in enumerate(files)]
    if not parts:
        raise InputError(f"{path} holds no line file; .csv or .txt files of one size are needed.")
    frame = pl.concat([frame for frame, _ in parts], how="diagonal")
    notes = tuple(dict.fromkeys(note for _, found in parts for note in found))
    if not path.is_dir():
        return RawTable(frame.drop(FOLD), str(path), notes=notes)
    numbered = all(re.search(TEST_PART, stem(file)) for file in files)
    union = f"The table is the union of {', '.join(file.name for file in files)}."
    frame = frame.drop(LINE) if numbered else frame.drop(LINE, FOLD)
    return RawTable(frame, str(path), notes=(*notes, union))


def _files(path: Path) -> list[Path]:
    """Return the file, or the test parts of a folder: every student is in one of them."""
    if path.is_file():
        return [path]
    files = find(path, FILE)
    return [file for file in files if re.search(TEST_PART, stem(file))] or files


def _part(path: Path, place: int, *, folder: bool) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    size = lines_a_student(path)
    if size not in LINES:
        raise InputError(
            f"{path}, line 1: the lines are not whole students; needed are three or four lines a "
            "student: id and length, questions if any, concepts, responses of 0 and 1."
        )
    names = LINES[size]
    table, notes = students(path, names)
    # A first line that is a length alone names nobody: students are then numbered.
    number = pl.int_range(1, pl.len() + 1).cast(pl.String)
    running = pl.concat_str(pl.lit(f"{stem(path)}:"), number) if folder else number
    identity = pl.col(STUDENT).str.split(",")
    table = table.with_columns(
        pl.when(identity.list.len() > 1)
        .then(identity.list.first())
        .otherwise(running)
        .alias(STUDENT),
        pl.lit(place, dtype=pl.Int64).alias(FOLD),
    )
    return steps(path, table, names[1:], RESPONSE), notes
