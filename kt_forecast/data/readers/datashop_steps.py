"""DataShop student-step export: one row a student and step, the first attempt as the response."""

from pathlib import Path

import polars as pl

from kt_forecast.data.readers import RawTable
from kt_forecast.data.readers._datashop import (
    SEPARATOR,
    concept_columns,
    concepts,
    names,
    open_export,
    question,
)
from kt_forecast.data.readers._files import minutes_only, moment, number, unquoted
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

NAME = "datashop_steps"
DESCRIPTION = "DataShop student-step export (tab separated or CSV)"
COLUMNS = (
    "anon student id",
    "problem name",
    "step name",
    "first transaction time",
    "first attempt",
)
RESPONSES = {"correct": 1, "incorrect": 0, "hint": 0}


def matches(path: Path) -> bool:
    """Tell whether the header has the first attempt at a step and is not that of Statics 2011."""
    columns = set(names(path)[1])
    return set(COLUMNS) <= columns and "kc f2011" not in columns


def read(path: Path) -> RawTable:
    """Translate the export; a hint asked for before any answer is a response of 0."""
    sheet, columns = open_export(path, COLUMNS)
    models, notes = concept_columns(columns)
    attempt = unquoted(columns["first attempt"]).str.to_lowercase()
    frame = sheet.frame.filter(attempt.is_in(list(RESPONSES))).select(
        LINE,
        unquoted(columns["anon student id"]).alias(STUDENT),
        question(columns).alias(QUESTION),
        concepts(models).alias(CONCEPTS),
        attempt.replace_strict(RESPONSES, return_dtype=pl.Int8).alias(RESPONSE),
        moment(columns["first transaction time"]).alias(TIME),
        *extras(columns),
    )
    return RawTable(
        frame,
        str(path),
        separator=SEPARATOR,
        bundled=not minutes_only(sheet.frame, columns["first transaction time"]),
        notes=(
            *sheet.notes,
            *notes,
            "Rows whose first attempt is not correct, incorrect or hint are left out.",
        ),
    )


def extras(columns: dict[str, str]) -> list[pl.Expr]:
    """Return what a student-step table records with the answer, as far as it has the columns."""
    found = []
    if "step duration sec" in columns:
        found.append(number(columns["step duration sec"]).alias(ELAPSED))
    if {"incorrects", "corrects"} <= set(columns):
        attempts = number(columns["incorrects"]) + number(columns["corrects"])
        found.append(attempts.alias(ATTEMPTS))
    if "hints" in columns:
        found.append(number(columns["hints"]).alias(HINTS))
    return found
