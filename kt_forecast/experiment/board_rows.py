"""What a leaderboard holds: a row of each system, the rows of each data set, what is missing."""

import math
from dataclasses import dataclass
from typing import Any, Self

SIGNIFICANT = 0.05

HEADER = (
    "system",
    "score",
    "less the best",
    "p",
    "parameters",
    "trained",
    "a step",
    "memory",
    "causality",
    "audit",
)


@dataclass(frozen=True)
class Interval:
    """A score and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A paired difference, its interval and its p-value."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Row:
    """One system on one data set.

    Attributes:
        system: name of its run; of a baseline its own.
        what: name of the system.
        score: on the test rows.
        parameters: trained numbers; None where there are none.
        seconds: of training; None without epochs.
        latency: milliseconds of one step, or forecast.
        memory: the most that training held, in words.
        causality: what it promises.
        verdict: of its audit; empty for a baseline.
        marks: why a comparison with it would be unfair.
        gap: to the best fair system; None for that one.
        label: its name over all data sets.
        early: how far a training came that was ended by time; empty for all others.
        draws: its score on every draw of the test rows; those of a place are the same draws.
        identity: equal for the same system under the same settings, whatever the seed.
    """

    system: str
    what: str
    score: Interval
    parameters: int | None
    seconds: float | None
    latency: float
    memory: str
    causality: str
    verdict: str
    marks: tuple[str, ...] = ()
    gap: Difference | None = None
    label: str = ""
    early: str = ""
    draws: tuple[float, ...] = ()
    identity: str = ""

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Self:
        """Return the row that was written as plain values; null stands for what is no number."""
        score = {key: number(value) for key, value in plain["score"].items()}
        gap = plain["gap"]
        if gap is not None:
            gap = Difference(**{key: number(value) for key, value in gap.items()})
        draws = tuple(number(value) for value in plain.get("draws", ()))
        told = {"score": Interval(**score), "gap": gap, "marks": tuple(plain["marks"])}
        return cls(**plain | told | {"latency": number(plain["latency"]), "draws": draws})

    def cells(self, *, is_best: bool, name: str = "") -> tuple[str, ...]:
        """Return what a table shows, under the run's name or another."""
        gap = self.gap
        return (
            " ".join((name or self.system, *self.marks)),
            with_interval(self.score),
            "best" if is_best else f"{with_interval(gap, signed=True)}" if gap else "-",
            "" if gap is None else p_value(gap.p),
            "-" if self.parameters is None else f"{self.parameters:,}",
            "-"
            if self.seconds is None
            else f"{self.seconds:.1f} s{self.early and f', {self.early}'}",
            f"{self.latency:.2f} ms",
            self.memory or "-",
            self.causality,
            self.verdict or "-",
        )


@dataclass(frozen=True)
class Group:
    """Systems on the same test rows, the best first.

    Attributes:
        title: data set, protocol, size.
        metric: of the score.
        lower: whether less of it is better.
        best: name of the best system to which nothing is unfair.
        rows: ranked.
        label: the data set in short.
        key: equal for what may be compared; empty where that is not known.
    """

    title: str
    metric: str
    lower: bool
    best: str
    rows: tuple[Row, ...]
    label: str = ""
    key: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return what each row is called: its system, or its run where others are called so too."""
        labels = [row.label for row in self.rows]
        return [
            row.label if row.label and labels.count(row.label) == 1 else row.system
            for row in self.rows
        ]


@dataclass(frozen=True)
class Failure:
    """A system that is not in a table, and why.

    Attributes:
        system: its name.
        under: the recipe or the run.
        why: in a sentence.
    """

    system: str
    under: str
    why: str


def number(value: float | None) -> float:
    """Return a number of a file, where one that is none was written as null."""
    return math.nan if value is None else float(value)


def with_interval(score: Interval | Difference | None, *, signed: bool = False) -> str:
    """Return a number with its interval, in words."""
    if score is None or math.isnan(score.value):
        return "-"
    sign = "+" if signed else ""
    word = f"{score.value:{sign}.4f}"
    if not math.isnan(score.low):
        word += f" [{score.low:{sign}.4f}, {score.high:{sign}.4f}]"
    return word


def p_value(p: float) -> str:
    """Return a p-value in words."""
    if math.isnan(p):
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"
