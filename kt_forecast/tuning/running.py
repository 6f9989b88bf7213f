"""One trial from its settings to its end."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, runtime_checkable

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from kt_forecast.errors import InputError
from kt_forecast.tuning import ledger
from kt_forecast.tuning.frozen import STATES
from kt_forecast.tuning.place import Budget
from kt_forecast.tuning.problem import Epoch, Outcome, Problem
from kt_forecast.tuning.recording import TrialRecord
from kt_forecast.tuning.settings import Search
from kt_forecast.tuning.space import Sections

INTERRUPTED = "it was interrupted"


class _Given(Exception):  # noqa: N818 - how a trial ends is no error
    """A trial ends before its training does."""


class _Pruned(_Given):
    """Validation fell behind."""


class _Late(_Given):
    """No time is left, or whoever started this process is gone."""


@runtime_checkable
class Again(Protocol):
    """Books a retry."""

    def __call__(self, number: int, reason: str, *, died: bool) -> None:
        """End a trial and book its retry."""
        ...


class Run:
    """One trial from its settings to its end.

    Args:
        trial: Optuna's trial.
        study: Optuna's study.
        problem: trains.
        settings: of the search.
        budget: until when this process works.
        record: of the trial in MLflow.
    """

    def __init__(
        self,
        trial: optuna.Trial,
        study: optuna.Study,
        problem: Problem,
        settings: Search,
        budget: Budget,
        record: TrialRecord,
    ) -> None:
        self._trial = trial
        self._study = study
        self._problem = problem
        self._settings = settings
        self._budget = budget
        self._record = record
        self._best: float | None = None
        self._reported = 0
        self._weighs = len(study.directions) > 1

    def go(
        self,
        sections: Sections,
        seed: int,
        *,
        spared: bool,
        show: Callable[[], object],
        again: Again,
    ) -> None:
        """Train and book the score, or the reason why there is none.

        Args:
            sections: every setting.
            seed: of first weights and training.
            spared: never prune.
            show: called with every epoch.
            again: books a retry where the trial is interrupted.

        Raises:
            BaseException: training failed in a way that no setting explains, or was interrupted.
        """

        def tell(epoch: Epoch) -> None:
            show()
            self._tell(epoch, spared=spared)

        with _alive(self._trial):
            try:
                self._problem.check(sections)
                outcome = self._problem.run(sections, seed, tell)
            except BaseException as error:
                if self._ended_by(error, again):
                    return
                raise
        self._complete(outcome)

    def _ended_by(self, error: BaseException, again: Again) -> bool:
        """Book why a trial ended; return whether the process may go on."""
        if isinstance(error, UpdateFinishedTrialError):
            # It was taken for dead, and its retry counts.
            self._record.end("failed", "it gave no sign of life")
            return True
        if isinstance(error, _Late | KeyboardInterrupt):
            again(self._trial.number, INTERRUPTED, died=False)
            self._record.end("failed", INTERRUPTED)
            return isinstance(error, _Late)
        if isinstance(error, InputError):
            self._end(TrialState.PRUNED, str(error))
        elif isinstance(error, _Pruned):
            self._end(TrialState.PRUNED, "validation fell behind")
        elif _out_of_memory(error):
            self._end(TrialState.PRUNED, "no memory was left")
        else:
            self._end(TrialState.FAIL, f"{type(error).__name__}: {error}")
            return False
        return True

    def _tell(self, epoch: Epoch, *, spared: bool) -> None:
        """Report an epoch of training; validation is all that a trial is judged by.

        Raises:
            _Late: no time is left.
            _Pruned: the trial fell behind.
        """
        problem, value = self._problem, epoch.metrics[self._problem.metric]
        if self._best is None or problem.better(value, self._best):
            self._best = value
        self._record.epoch(epoch)
        if not self._weighs and epoch.number > self._reported:
            self._trial.report(self._best, epoch.number)
            self._reported = epoch.number
        if self._budget.is_over():
            raise _Late
        last = epoch.number >= problem.epochs
        if not (self._weighs or spared or last) and self._trial.should_prune():
            raise _Pruned

    def _complete(self, outcome: Outcome) -> None:
        if not math.isfinite(outcome.value):
            self._end(TrialState.PRUNED, f"its score is {outcome.value}")
            return
        facts = {
            "best_epoch": outcome.best_epoch,
            "epochs": outcome.epochs,
            "parameters": outcome.parameters,
            "flops": outcome.flops,
            "threads": threads(),
        }
        values = [outcome.value]
        if self._weighs:
            cost = outcome.parameters if self._settings.cost == "parameters" else outcome.flops
            values.append(float(cost or 0.0))
        with suppress(ValueError, UpdateFinishedTrialError):
            self._trial.set_user_attr(ledger.FACTS, facts)
            self._study.tell(self._trial, values)
        scores = {f"study/{self._problem.metric}": outcome.value}
        if outcome.parameters is not None:
            scores["study/parameters"] = float(outcome.parameters)
        self._record.end("complete", scores=scores)

    def _end(self, state: TrialState, reason: str) -> None:
        with suppress(ValueError, UpdateFinishedTrialError):
            self._trial.set_user_attr(ledger.REASON, reason)
            self._study.tell(self._trial, state=state)
        self._record.end(STATES[state], reason)


@contextmanager
def _alive(trial: optuna.Trial) -> Iterator[None]:
    """Give a sign of life now and then, for processes of other machines."""
    ended = threading.Event()

    def beat() -> None:
        count = 0
        while not ended.wait(ledger.BEAT_SECONDS):
            count += 1
            with suppress(Exception):  # the trial itself will meet whatever is wrong
                trial.set_user_attr(ledger.BEAT, count)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def threads() -> int:
    """Return how many threads compute, on which the last digits of a score depend."""
    import torch

    return torch.get_num_threads()


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
