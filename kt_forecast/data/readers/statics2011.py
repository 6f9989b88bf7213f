"""Engineering Statics, fall 2011: a student-step export that studies read in a way of its own.

Published studies take problem and step together as the concept, have no question, and leave out
steps that began with a hint; the reader does the same, so that figures can be compared.
"""

from pathlib import Path

import polars as pl

from kt_forecast.data.readers import ONE_CONCEPT, RawTable
from kt_forecast.data.readers._datashop import names, open_export, question
from kt_forecast.data.readers._files import minutes_only, moment, unquoted
from kt_forecast.data.readers.datashop_steps import COLUMNS, extras
from kt_forecast.schema import CONCEPTS, LINE, ORDER, RESPONSE, STUDENT, TIME

NAME = "statics2011"
DESCRIPTION = "Statics 2011 student-step file (AllData_student_step_2011F)"
RESPONSES = {"correct": 1, "incorrect": 0}


def matches(path: Path) -> bool:
    """Tell whether the header has a first attempt and the KC model F2011."""
    return {*COLUMNS, "kc f2011"} <= set(names(path)[1])


def read(path: Path) -> RawTable:
    """Translate the file; every row is an event of its own."""
    sheet, columns = open_export(path, COLUMNS)
    attempt = unquoted(columns["first attempt"]).str.to_lowercase()
    frame = sheet.frame.filter(attempt.is_in(list(RESPONSES))).select(
        LINE,
        unquoted(columns["anon student id"]).alias(STUDENT),
        question(columns).alias(CONCEPTS),
        attempt.replace_strict(RESPONSES, return_dtype=pl.Int8).alias(RESPONSE),
        moment(columns["first transaction time"]).alias(TIME),
        pl.col(LINE).cast(pl.Int64).alias(ORDER),
        *extras(columns),
    )
    return RawTable(
        frame,
        str(path),
        separator=ONE_CONCEPT,
        bundled=not minutes_only(sheet.frame, columns["first transaction time"]),
        notes=(
            *sheet.notes,
            "Problem and step together are the concept, and there is no question.",
            "Steps that began with a hint are left out.",
        ),
    )
