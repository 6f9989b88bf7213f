"""KDD Cup 2010: Algebra and Bridge to Algebra, one row a step, as the challenge gave them out."""

from pathlib import Path

from kt_forecast.data.readers import RawTable
from kt_forecast.data.readers._datashop import (
    SEPARATOR,
    concept_columns,
    concepts,
    names,
    open_export,
    question,
)
from kt_forecast.data.readers._files import minutes_only, moment, unquoted
from kt_forecast.data.readers.datashop_steps import extras
from kt_forecast.schema import CONCEPTS, LINE, QUESTION, RESPONSE, STUDENT, TIME

NAME = "kdd_cup2010"
DESCRIPTION = "KDD Cup 2010 training file (algebra, bridge_to_algebra; tab separated)"
COLUMNS = (
    "anon student id",
    "problem name",
    "step name",
    "first transaction time",
    "correct first attempt",
)


def matches(path: Path) -> bool:
    """Tell whether the header has the correctness of the first attempt."""
    return set(COLUMNS) <= set(names(path)[1])


def read(path: Path) -> RawTable:
    """Translate the file; a question is a problem and a step."""
    sheet, columns = open_export(path, COLUMNS)
    models, notes = concept_columns(columns)
    frame = sheet.frame.select(
        LINE,
        unquoted(columns["anon student id"]).alias(STUDENT),
        question(columns).alias(QUESTION),
        concepts(models).alias(CONCEPTS),
        unquoted(columns["correct first attempt"]).alias(RESPONSE),
        moment(columns["first transaction time"]).alias(TIME),
        *extras(columns),
    )
    return RawTable(
        frame,
        str(path),
        separator=SEPARATOR,
        bundled=not minutes_only(sheet.frame, columns["first transaction time"]),
        notes=(*sheet.notes, *notes),
    )
