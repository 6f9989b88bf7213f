"""Where a study lives, until when a process works on it, and how far it is."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from kt_forecast.tuning.ledger import Slot
from kt_forecast.tuning.problem import Problem
from kt_forecast.tuning.recording import Recorder
from kt_forecast.tuning.settings import Search

SECONDS_AN_HOUR = 3600.0

Phase = Literal["search", "finalists"]


def _silent(view: "View") -> None:
    del view


def _held() -> bool:
    return False


@dataclass(frozen=True)
class View:
    """How far a study is.

    Attributes:
        system: that is searched.
        phase: trials with different settings, or finalists with further seeds.
        slots: places of the budget that are taken.
        total: places that there are; None is without end.
        problem: what the study is about.
        deadline: when it ends, by the clock of `time.time`; None where it does not.
    """

    system: str
    phase: Phase
    slots: tuple[Slot, ...]
    total: int | None
    problem: Problem
    deadline: float | None = None


@dataclass(frozen=True)
class Budget:
    """Until when a process works.

    Attributes:
        deadline: moment by the clock; None where there is none.
        orphaned: tells that whoever started this process is gone.
        now: the clock.
    """

    deadline: float | None = None
    orphaned: Callable[[], bool] = _held
    now: Callable[[], float] = time.time

    @classmethod
    def of(cls, settings: Search) -> Self:
        """Return the budget of a call that begins now."""
        hours = settings.hours
        return cls(None if hours is None else time.time() + hours * SECONDS_AN_HOUR)

    def is_over(self, reserve: float = 0.0) -> bool:
        """Return whether no time is left, beside some that is kept for what follows."""
        late = self.deadline is not None and self.now() + reserve >= self.deadline
        return late or self.orphaned()


@dataclass(frozen=True)
class Place:
    """Where a study lives.

    Attributes:
        name: in its storage.
        storage: a file, a URL, or None for memory.
        recorder: records it in MLflow; None records nothing.
        watch: told how far it is, now and then.
    """

    name: str
    storage: str | Path | None = None
    recorder: Recorder | None = None
    watch: Callable[[View], object] = _silent


def final_name(name: str) -> str:
    """Return the name of the study of a study's finalists."""
    return f"{name}-finalists"


def parent_is_gone(parent: int) -> Callable[[], bool]:
    """Return what tells whether the process that started this one is no more."""
    return lambda: os.getppid() != parent
