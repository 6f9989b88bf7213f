"""One process at work: it takes trials, and picks up those of processes that died."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from statistics import median
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from kt_forecast.tracking import this_process
from kt_forecast.tuning import ledger
from kt_forecast.tuning.frozen import seen
from kt_forecast.tuning.ledger import Slot, Trial, Watch, counts, slots
from kt_forecast.tuning.place import Budget, Phase, Place, View, final_name
from kt_forecast.tuning.problem import Problem
from kt_forecast.tuning.recording import TrialRecord
from kt_forecast.tuning.running import Run
from kt_forecast.tuning.sampling import label, pruner, sampler, suggested, unlabelled
from kt_forecast.tuning.settings import Search
from kt_forecast.tuning.space import Sections, Space

READY, RUN = "ready", "mlflow_run"
READY_SECONDS = 30.0
"""How long a process waits for the one that made the study to book its first trial."""

WAIT_SECONDS = 0.5
"""Pause between two looks at what other processes do."""

VIEW_SECONDS = 0.5


class Desk:
    """One process at work on one study of a storage.

    Args:
        problem: what the study is about.
        settings: how it searches.
        space: what it searches.
        place: where it lives.
        budget: until when this process works.
        storage: the open storage.
        phase: whether settings are searched, or finalists trained with further seeds.
        run: id of MLflow's record of the study, in the second phase.

    Attributes:
        study: Optuna's study.
        total: places of the budget; None is without end.
    """

    def __init__(
        self,
        problem: Problem,
        settings: Search,
        space: Space,
        place: Place,
        budget: Budget,
        storage: BaseStorage,
        *,
        phase: Phase = "search",
        run: str | None = None,
    ) -> None:
        self.problem = problem
        self.settings = settings
        self.space = space
        self.place = place
        self.budget = budget
        self.storage = storage
        self.phase = phase
        self.total: int | None = None
        self._watch = Watch()
        self._shown = 0.0
        self.study, created = self._opened(
            place.name if phase == "search" else final_name(place.name)
        )
        self.run = run
        if phase == "search":
            self._begin(created=created)

    def _opened(self, name: str) -> tuple[optuna.Study, bool]:
        """Return the study, and whether this process made it."""
        weighs = self.settings.weighs_cost and self.phase == "search"
        best = "maximize" if self.problem.direction == "max" else "minimize"
        chooses = sampler(self.settings.sampler, self.problem.seed)
        stops = pruner(
            self.settings.pruner if self.phase == "search" else "none",
            self.settings.sampler,
            self.problem.epochs,
        )
        options: dict[str, Any] = {"storage": self.storage, "sampler": chooses, "pruner": stops}
        try:
            study = optuna.create_study(
                study_name=name, directions=[best, "minimize"] if weighs else [best], **options
            )
        except DuplicatedStudyError:
            return optuna.load_study(study_name=name, **options), False
        return study, True

    def _begin(self, *, created: bool) -> None:
        """Book the recipe as it stands and the study's MLflow run, once for all processes."""
        study, recorder = self.study, self.place.recorder
        if not created:
            until = time.monotonic() + READY_SECONDS
            while not study.user_attrs.get(READY) and time.monotonic() < until:
                time.sleep(WAIT_SECONDS)
        if not study.user_attrs.get(READY):
            self.book(self.space.own(), {ledger.KEY: ledger.DEFAULT, ledger.DEFAULT: True})
        self.run = study.user_attrs.get(RUN)
        if recorder is not None and (self.run is None or not recorder.knows(self.run)):
            plain = {"system": self.problem.system, **self.problem.sections}
            how = self.settings.model_dump(mode="json", exclude={"storage", "space"})
            self.run = recorder.begin(self.place.name, plain | {"search": how})
            study.set_user_attr(RUN, self.run)
        if not study.user_attrs.get(READY):
            study.set_user_attr(READY, True)  # noqa: FBT003 - Optuna's own signature

    def book(self, params: Mapping[str, Any], notes: dict[str, Any]) -> None:
        """Put a trial with given values in the queue."""
        labelled = {name: label(value) for name, value in params.items()}
        self.study.enqueue_trial(labelled, user_attrs=notes)

    def trials(self) -> list[Trial]:
        """Return all trials, surplus ones too."""
        return [seen(one) for one in self.study.get_trials(deepcopy=False)]

    def slots(self) -> list[Slot]:
        """Return the places of the budget that are taken."""
        return slots(self.trials(), self.total)

    def work(self, total: int | None, *, reserve: bool = False) -> None:
        """Take trials until all places are filled and ended, or the time is up.

        Args:
            total: places of the budget; None is without end.
            reserve: keep time for finalists.
        """
        self.total = total
        while True:
            self._sweep()
            taken = self.slots()
            if self.budget.is_over(self._kept(taken) if reserve else 0.0):
                break
            waiting = any(slot.last.state == "waiting" for slot in taken)
            if total is not None and len(taken) >= total and not waiting:
                if all(slot.last.ended for slot in taken):
                    break
                self._show(force=True)
                time.sleep(WAIT_SECONDS)  # for trials of other processes, which may die
                continue
            self._take()
        self._show(force=True)

    def _kept(self, taken: list[Slot]) -> float:
        """Return the time that one more trial and the finalists need, as completed trials took."""
        done = [slot.last.seconds for slot in taken if slot.last.state == "complete"]
        if not done or self.settings.seeds == 1:
            return 0.0
        repeats = (min(self.settings.finalists, len(done)) + 1) * (self.settings.seeds - 1)
        return (1 + repeats) * median(done)

    def _sweep(self) -> None:
        """End trials whose process died, and book each again, once."""
        for one in self.trials():
            if one.state == "running" and self._watch.is_lost(one):
                self.again(one.number, "its process ended without a word", died=True)

    def again(self, number: int, reason: str, *, died: bool) -> None:
        """End a trial and book its retry first, as any process may die between the two.

        Args:
            number: of the trial.
            reason: why it did not end by itself.
            died: whether this used up one of its attempts.
        """
        one = next(t for t in self.trials() if t.number == number)
        attempt = int(one.notes.get(ledger.ATTEMPT, 1)) + died
        key = ledger.retry_of(one.number)
        if attempt <= ledger.ATTEMPTS and all(t.key != key for t in self.trials()):
            kept = (ledger.OF, ledger.SEED, ledger.DEFAULT)
            notes = {name: one.notes[name] for name in kept if name in one.notes}
            self.book(self.unlabelled(one), notes | {ledger.KEY: key, ledger.ATTEMPT: attempt})
        self._tell_failed(one.number, reason)

    def unlabelled(self, one: Trial) -> dict[str, Any]:
        """Return the values of a trial by dotted name."""
        by_name = {d.name: d for d in self.space.dimensions}
        return {k: unlabelled(by_name[k], v) for k, v in one.params.items() if k in by_name}

    def _tell_failed(self, number: int, reason: str) -> None:
        frozen = self.study.get_trials(deepcopy=False)[number]
        with suppress(ValueError, UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(frozen._trial_id, ledger.REASON, reason)  # noqa: SLF001
            self.study.tell(number, state=TrialState.FAIL)

    def _take(self) -> None:
        """Run one trial, if the one that was drawn has a place."""
        trial = self.study.ask()
        trial.set_user_attr(ledger.PROCESS, this_process())
        known = self.trials()
        mine = next(one for one in known if one.number == trial.number)
        if not counts(trial.number, known, self.total):
            trial.set_user_attr(ledger.SURPLUS, True)  # noqa: FBT003
            self._tell_failed(trial.number, "another process has its place")
            return
        values = suggested(trial, self.space)
        plain = self.problem.sections
        sections = plain if mine.is_default else self.space.applied(plain, values)
        seed = int(mine.notes.get(ledger.SEED, self.problem.seed))
        spared = mine.is_default or self.phase != "search"
        with self._recorded(trial.number, sections, seed) as record:
            run = Run(trial, self.study, self.problem, self.settings, self.budget, record)
            run.go(sections, seed, spared=spared, show=self.show, again=self.again)
        self._show(force=True)

    @contextmanager
    def _recorded(self, number: int, sections: Sections, seed: int) -> Iterator[TrialRecord]:
        """Record a trial in MLflow, where the study is."""
        if self.place.recorder is None or self.run is None:
            yield TrialRecord()
            return
        what = "trial" if self.phase == "search" else "finalist"
        tags = {"study.trial": str(number), "study.phase": self.phase, "seed": str(seed)}
        notes = self.study.get_trials(deepcopy=False)[number].user_attrs
        if key := notes.get(ledger.KEY):
            tags["study.key"] = str(key)
        name = f"{self.place.name}-{what}-{number}"
        settings = {"system": self.problem.system, **sections, "seed": seed}
        with self.place.recorder.trial(self.run, name, settings, tags) as record:
            yield record

    def show(self) -> None:
        """Tell how far the study is, unless that was told just now."""
        self._show(force=False)

    def _show(self, *, force: bool) -> None:
        now = time.monotonic()
        if not force and now - self._shown < VIEW_SECONDS:
            return
        self._shown = now
        taken = tuple(self.slots())
        found = View(
            self.problem.system, self.phase, taken, self.total, self.problem, self.budget.deadline
        )
        self.place.watch(found)
