"""What the audits of both tasks share: a data path to be run, and checks of the scoring."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kt_forecast.audit import Report, Stage
from kt_forecast.audit.pipeline import Rows

DEVIATIONS = 4.0
"""Standard errors beyond which a score on noise is no chance."""

_NORMAL_95 = 3.92
"""Standard errors between the ends of a 95 % interval."""


@dataclass(frozen=True)
class Sizes:
    """How much of a recipe's data an audit looks at.

    Attributes:
        entities: students of each role; of series a third of that.
        steps: rows of a student.
        moments: at which the table is cut and changed.
        probes: of the data path; none for all.
        flipped: test students whose answers are replaced by fair coins and scored.
    """

    entities: int = 6
    steps: int = 30
    moments: int = 3
    probes: tuple[str, ...] = ()
    flipped: int = 300


THOROUGH = Sizes()
QUICK = Sizes(
    entities=3,
    steps=16,
    moments=2,
    probes=("truncate", "mutate", "own", "fit", "split"),
    flipped=60,
)
"""For every trained run: the probes of what is most often done wrong."""


@dataclass(frozen=True)
class Path:
    """A recipe from its table to its scores.

    Attributes:
        function: from training rows and others to features of both, and what was fitted.
        frame: a sample of the table.
        contract: when its cells are known.
        stages: exact checks of split and scoring, made when they are asked for.
        model: the audit of the model, made when it is asked for.
        what: the sample in words.
    """

    function: Callable[..., Any]
    frame: Any
    contract: Rows
    stages: Callable[[], Iterable[Stage]]
    model: Callable[[], Report]
    what: str


def scored(protocol: str, distinct: int, times: int, wanted: int) -> Stage:
    """Return whether everything was scored exactly once."""
    right = distinct == times == wanted
    detail = f"{wanted} wanted, {distinct} scored, {times} times in all"
    return Stage(f"scoring: each once, {protocol}", "passed" if right else "found", detail)


def worst(aucs: list[tuple[float, float, float]]) -> Stage:
    """Return whether fair coins in place of answers are predicted better or worse than a coin.

    Args:
        aucs: value and ends of the interval, for each protocol.
    """
    name = "scoring: coin flips"
    told = [
        (abs(value - 0.5) / max((high - low) / _NORMAL_95, 1e-9), value)
        for value, low, high in aucs
        if not math.isnan(value + low + high)
    ]
    if not told:
        return Stage(name, "skipped", "too few answers to say what chance gives")
    deviations, value = max(told)
    detail = f"AUC {value:.3f} on fair coins, {deviations:.1f} standard errors from a half"
    return Stage(name, "found" if deviations > DEVIATIONS else "passed", detail)
