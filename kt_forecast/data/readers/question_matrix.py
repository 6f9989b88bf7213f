"""A tab-separated log whose items have their concepts in a matrix ``q_mat.npz`` beside it."""

import zipfile
from pathlib import Path

import numpy as np
import polars as pl

from kt_forecast.data.readers import ONE_CONCEPT, RawTable
from kt_forecast.data.readers._files import filled, find, has_columns, number, open_sheet, whole
from kt_forecast.errors import InputError
from kt_forecast.schema import CONCEPTS, LINE, QUESTION, RESPONSE, STUDENT, TIME

NAME = "question_matrix"
DESCRIPTION = "TSV of user_id, item_id, timestamp (s), correct, skill_id with q_mat.npz beside it"
COLUMNS = ("user_id", "item_id", "timestamp", "correct", "skill_id")
MATRIX = "q_mat.npz"
WHOLE_LOG = r"preprocessed_data\.csv"
ANY_LOG = r".*\.(csv|tsv|txt)"


def matches(path: Path) -> bool:
    """Tell whether the file, or a file of the folder, has the header of the log."""
    return bool(_logs(path))


def read(path: Path) -> RawTable:
    """Translate the log; a row of the matrix is an item and its columns are the concepts.

    Raises:
        InputError: the folder does not hold exactly one log, or the matrix cannot be read.
    """
    logs = _logs(path) if path.is_dir() else [path]
    if len(logs) != 1:
        names = ", ".join(log.name for log in logs) or "none"
        raise InputError(
            f"{path} holds {len(logs)} logs ({names}); accepted is a file, or a folder with one."
        )
    sheet = open_sheet(logs[0], "\t", COLUMNS)
    frame = sheet.frame.select(
        LINE,
        filled("user_id").alias(STUDENT),
        filled("item_id").alias(QUESTION),
        filled("skill_id").alias(CONCEPTS),
        filled("correct").alias(RESPONSE),
        (number("timestamp") * 1000).round().cast(pl.Int64, strict=False).alias(TIME),
        whole("item_id").alias("item"),
    )
    matrix = logs[0].parent / MATRIX
    if not matrix.is_file():
        note = f"No {MATRIX} lies beside the log: skill_id is taken as the one concept of an item."
        return RawTable(frame.drop("item"), str(path), ONE_CONCEPT, notes=(*sheet.notes, note))
    frame = frame.drop(CONCEPTS).join(
        _concepts(matrix).lazy(), on="item", how="left", maintain_order="left"
    )
    return RawTable(frame.drop("item"), str(path), ONE_CONCEPT, notes=sheet.notes)


def _logs(path: Path) -> list[Path]:
    files = (find(path, WHOLE_LOG) or find(path, ANY_LOG)) if path.is_dir() else [path]
    return [file for file in files if has_columns(file, "\t", COLUMNS)]


def _concepts(path: Path) -> pl.DataFrame:
    """Return the list of concepts of each item.

    Raises:
        InputError: the file is no sparse matrix as scipy saves one.
    """
    from scipy import sparse

    try:
        matrix = sparse.load_npz(path).tocoo()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is no sparse matrix ({error}); accepted is a file of scipy.sparse.save_npz "
            "without pickled objects."
        ) from error
    given = matrix.data != 0
    pairs = pl.DataFrame(
        {
            "item": matrix.row[given].astype(np.int64),
            CONCEPTS: matrix.col[given].astype(np.int64),
        }
    )
    return pairs.group_by("item", maintain_order=True).agg(pl.col(CONCEPTS).cast(pl.String))
