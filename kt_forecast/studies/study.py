"""What a file of this folder exports as ``STUDY``."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kt_forecast.studies.record import Chart, Row, Table
from kt_forecast.studies.systems import StudySettings

Say = Callable[[str], None]


class Clock:
    """The seconds that a study may take.

    Attributes:
        ends: when they are over, by ``time.monotonic``, which all processes of a machine share.
        stopped: whether anything was left out for their sake.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.ends = math.inf if seconds is None else time.monotonic() + seconds
        self.stopped = False

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.ends - time.monotonic()

    def over(self) -> bool:
        """Return whether to stop before a reading; it is noted that this was said."""
        if self.left() <= 0:
            self.stopped = True
        return self.stopped


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a study found, by the end or so far.

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
        run: measures, and says what happens, one sentence at a time; yields after every reading
            what all readings so far show, and stops when the clock is over.
    """

    question: str
    settings: type[StudySettings]
    full: dict[str, Any]
    run: Callable[[Any, Say, Clock], Iterator[Found]]
