"""What a file of this folder exports as ``STUDY``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kt_forecast.studies.record import Chart, Row, Table
from kt_forecast.studies.systems import StudySettings

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a study found.

    Attributes:
        answers: sentences that answer its question.
        how: sentences that say how it was measured.
        tables: for the reader.
        charts: for the reader.
        rows: every measurement.
    """

    answers: tuple[str, ...]
    how: tuple[str, ...]
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study.

    Attributes:
        question: that it asks.
        settings: its settings, whose defaults take about a minute on two cores.
        full: those that a GPU is asked for.
        run: measures, and says what happens, one sentence at a time.
    """

    question: str
    settings: type[StudySettings]
    full: dict[str, Any]
    run: Callable[[Any, Say], Found]
