"""Which trials of a study count, and which process died in one.

Several processes work on one study, and any of them may be killed at any moment. Nothing here
depends on who came first: what counts follows from the numbers of the trials alone, so that all
processes agree without a lock, in a file as in a database.

A trial may have a *key*. Of trials with the same key only the one with the lowest number counts.
The first trial (the recipe as it stands), a retry, and a finalist's further seed have keys, so that
two processes that both think one is missing add it twice and count it once.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kt_forecast.tracking import is_dead

State = Literal["waiting", "running", "complete", "pruned", "failed"]

KEY = "key"
DEFAULT = "recipe as it stands"
ATTEMPT = "attempt"
OF, SEED = "of", "seed"
PROCESS, BEAT = "process", "beat"
REASON, SURPLUS = "reason", "surplus"
FACTS = "facts"

ATTEMPTS = 2
"""How often a trial is tried whose process dies."""

BEAT_SECONDS = 20.0
"""Time between two signs of life of a running trial."""

LOST_SECONDS = 300.0
"""Time without a sign of life after which a trial of another machine counts as lost."""


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: counted from 0.
        state: how far it is.
        values: score, and cost where that is an objective; empty before it is complete.
        params: values by dotted name, as they were booked.
        notes: what else was recorded with it.
        reports: best score up to each epoch.
        seconds: how long it took, or takes.
    """

    number: int
    state: State
    values: tuple[float, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    reports: Mapping[int, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def value(self) -> float:
        """The score; of a trial that is not complete, the last one that it reported, or nan."""
        if self.values:
            return self.values[0]
        return self.reports[max(self.reports)] if self.reports else float("nan")

    @property
    def key(self) -> str | None:
        """What the trial alone may be; None where it is one of many."""
        return self.notes.get(KEY)

    @property
    def is_default(self) -> bool:
        """Whether it tries the recipe as it stands."""
        return bool(self.notes.get(DEFAULT))

    @property
    def reason(self) -> str:
        """Why it was not completed, in a sentence."""
        return str(self.notes.get(REASON, ""))

    @property
    def facts(self) -> Mapping[str, Any]:
        """What training gave beside the score."""
        found: Mapping[str, Any] = self.notes.get(FACTS, {})
        return found

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in {"complete", "pruned", "failed"}


def retry_of(number: int) -> str:
    """Return the key of the retry of a trial."""
    return f"retry of {number}"


def repeat_of(number: int, seed: int) -> str:
    """Return the key of a finalist's training with a seed."""
    return f"trial {number} with seed {seed}"


@dataclass(frozen=True)
class Slot:
    """A place of the budget.

    Attributes:
        tries: the trial that took it, and its retries.
    """

    tries: tuple[Trial, ...]

    @property
    def last(self) -> Trial:
        """The trial that speaks for the place."""
        return self.tries[-1]


def slots(trials: Iterable[Trial], most: int | None = None) -> list[Slot]:
    """Return the places of the budget that are taken, oldest first.

    Args:
        trials: all trials of a study.
        most: places that there are; a trial beyond them is surplus. None is without end.
    """
    counting: list[Trial] = []
    retries: dict[str, Trial] = {}
    seen: set[str] = set()
    for one in sorted(trials, key=lambda t: t.number):
        if one.key is None:
            if not one.notes.get(SURPLUS):
                counting.append(one)
            continue
        if one.key in seen:
            continue
        seen.add(one.key)
        if one.notes.get(ATTEMPT):
            retries[one.key] = one
        else:
            counting.append(one)
    return [_slot(one, retries) for one in counting[:most]]


def _slot(first: Trial, retries: Mapping[str, Trial]) -> Slot:
    tries = [first]
    while (again := retries.get(retry_of(tries[-1].number))) is not None:
        tries.append(again)
    return Slot(tuple(tries))


def counts(number: int, trials: Iterable[Trial], most: int | None) -> bool:
    """Return whether a trial has a place of the budget."""
    return any(one.number == number for slot in slots(trials, most) for one in slot.tries)


class Watch:
    """Notices trials whose process is gone."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, float]] = {}

    def is_lost(self, trial: Trial) -> bool:
        """Return whether a running trial has nobody who runs it.

        A process of this machine is looked up. One of another machine, or a trial that says of no
        process, is lost once it gave no sign of life for as long as this process has watched it,
        so that no two clocks are compared.
        """
        process = str(trial.notes.get(PROCESS, ""))
        if process and is_dead(process):
            return True
        now, beat = time.monotonic(), trial.notes.get(BEAT)
        before, since = self._seen.get(trial.number, (object(), now))
        if beat != before:
            since = now
        self._seen[trial.number] = (beat, since)
        return now - since > LOST_SECONDS
