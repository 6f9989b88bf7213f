"""What a study leaves: plain data, stored as JSON."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kt_forecast.errors import InputError
from kt_forecast.report.record import Number, Plain

Row = dict[str, Any]


@dataclass(frozen=True)
class Line(Plain):
    """A line of a chart; ``low`` and ``high`` bound each point and may be left out."""

    name: str
    x: tuple[Number, ...]
    y: tuple[Number, ...]
    low: tuple[Number, ...] = ()
    high: tuple[Number, ...] = ()


def line(
    name: str,
    x: Iterable[int | float],
    y: Iterable[int | float],
    low: Iterable[int | float] = (),
    high: Iterable[int | float] = (),
) -> Line:
    """Return a line through whole or other numbers."""
    sides = (tuple(map(float, side)) for side in (x, y, low, high))
    return Line(name, *sides)


@dataclass(frozen=True, kw_only=True)
class Chart(Plain):
    """Lines over one axis.

    Attributes:
        name: of the picture, a word.
        title: heading.
        caption: how to read it.
        x: what the first axis shows, always as powers.
        y: what the second axis shows.
        log: whether the second axis shows powers too.
        level: a value to compare with, such as that of a coin; nan for none.
        lines: from the first to the last of the legend.
    """

    name: str
    title: str
    caption: str
    x: str
    y: str
    lines: tuple[Line, ...]
    log: bool = True
    level: Number = math.nan


@dataclass(frozen=True, kw_only=True)
class Table(Plain):
    """Words in rows."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class StudyRecord(Plain):
    """A study.

    Attributes:
        study: its name.
        question: that it asks.
        answers: sentences.
        how: sentences that say how it was measured.
        settings: all of them.
        machine: what it ran on.
        seconds: that it took.
        created: when.
        command: that makes it again.
        tables: for the reader.
        charts: for the reader.
        rows: every measurement.
        unfinished: why not all was measured; empty when all was.
    """

    study: str
    question: str
    answers: tuple[str, ...]
    how: tuple[str, ...]
    settings: dict[str, Any]
    machine: dict[str, Any]
    seconds: Number
    created: str
    command: str
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...]
    rows: tuple[Row, ...]
    unfinished: str = ""

    def to_json(self) -> str:
        """Return the record as JSON; a number that is not finite is null."""
        return json.dumps(_finite(asdict(self)), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> "StudyRecord":
        """Return the record that `to_json` wrote.

        Args:
            text: the JSON.
            where: the file's name, for the message.

        Raises:
            InputError: it is not one.
        """
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError:
            raise InputError(
                f"{where}: holds no study's record; accepted is the JSON that a study wrote"
            ) from None


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
