"""DataShop transaction export: one row an action; the first attempt at a step is the response.

A step starts anew where ``Attempt At Step`` is one, within student, problem, problem view and step.
Without that column the problem view tells the visits apart. Exports with neither, such as those
that pass through R for spaced practice, hold one row a practice: every row is a response.
"""

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
from kt_forecast.data.readers._files import minutes_only, moment, number, unquoted, whole
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

NAME = "datashop_transactions"
DESCRIPTION = (
    "DataShop transaction export (tab separated, or its CSV form with names as R writes them)"
)
COLUMNS = ("anon student id", "time", "problem name", "step name", "outcome")
OUTCOMES = ("CORRECT", "INCORRECT", "HINT")


def matches(path: Path) -> bool:
    """Tell whether the header has the outcome of a transaction."""
    return set(COLUMNS) <= set(names(path)[1])


def read(path: Path) -> RawTable:
    """Translate the export to one row a student, problem view and step."""
    sheet, columns = open_export(path, COLUMNS)
    models, notes = concept_columns(columns)
    outcome = unquoted(columns["outcome"]).str.to_uppercase()
    duration = columns.get("duration sec")
    rows = sheet.frame.select(
        LINE,
        unquoted(columns["anon student id"]).alias(STUDENT),
        question(columns).alias(QUESTION),
        concepts(models).alias(CONCEPTS),
        outcome.alias(RESPONSE),
        moment(columns["time"]).alias(TIME),
        (number(duration) if duration else pl.lit(None, dtype=pl.Float64)).alias(ELAPSED),
        *_visit(columns),
    ).filter(pl.col(RESPONSE).is_in(OUTCOMES))
    frame = _first_attempts(rows, columns)
    return RawTable(
        frame.drop("view", "attempt", strict=False),
        str(path),
        separator=SEPARATOR,
        bundled=not minutes_only(sheet.frame, columns["time"]),
        notes=(
            *sheet.notes,
            *notes,
            "Rows whose outcome is not CORRECT, INCORRECT or HINT, such as study trials, "
            "are left out.",
        ),
    )


def _visit(columns: dict[str, str]) -> list[pl.Expr]:
    given = {"view": columns.get("problem view"), "attempt": columns.get("attempt at step")}
    return [unquoted(column).alias(name) for name, column in given.items() if column]


def _first_attempts(rows: pl.LazyFrame, columns: dict[str, str]) -> pl.LazyFrame:
    correct = (pl.col(RESPONSE) == "CORRECT").cast(pl.Int8)
    if not _visit(columns):
        return rows.with_columns(correct.alias(RESPONSE))
    keys = [STUDENT, QUESTION, *(["view"] if "problem view" in columns else [])]
    if "attempt at step" in columns:
        # Within one second the attempts may stand in any order in the file.
        rows = rows.sort(STUDENT, TIME, whole("attempt"), maintain_order=True)
        starts = (pl.col("attempt") == "1").fill_null(value=False)
        rows = rows.with_columns(starts.cum_sum().over(keys).alias("visit"))
        keys.append("visit")
    hint = pl.col(RESPONSE) == "HINT"
    return (
        rows.group_by(keys, maintain_order=True)
        .agg(
            pl.col(LINE, CONCEPTS, TIME).first(),
            correct.first().alias(RESPONSE),
            pl.when(pl.col(ELAPSED).count() > 0).then(pl.col(ELAPSED).sum()).alias(ELAPSED),
            (~hint).sum().cast(pl.Float64).alias(ATTEMPTS),
            hint.sum().cast(pl.Float64).alias(HINTS),
        )
        .drop("visit", strict=False)
    )
