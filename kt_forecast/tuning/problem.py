"""What a study is about: settings in, a validation score out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from kt_forecast.config import Config
from kt_forecast.tuning.ledger import Trial
from kt_forecast.tuning.space import Sections, Space

__all__ = ["Epoch", "Found", "Outcome", "Problem", "Sections"]


@runtime_checkable
class Epoch(Protocol):
    """What a study reads of an epoch of training."""

    @property
    def number(self) -> int:
        """Counted from 1."""
        ...

    @property
    def metrics(self) -> dict[str, float]:
        """What validation gave."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What one training gave.

    Attributes:
        value: the validation metric of the epoch that validation chose.
        best_epoch: that epoch; None where there are no epochs.
        epochs: how many there were.
        parameters: how many numbers were trained; None where that says nothing.
        flops: operations of one step's prediction; None where they were not counted.
    """

    value: float
    best_epoch: int | None = None
    epochs: int = 0
    parameters: int | None = None
    flops: float | None = None


@dataclass(frozen=True)
class Problem:
    """One system on the training and validation rows of one table.

    Attributes:
        system: its name.
        sections: every setting, by section and field: what trial 0 tries.
        configs: the class behind each section, whose fields name their spaces.
        metric: what validation is judged by, the same for all trials.
        direction: whether a higher (``max``) or lower (``min``) metric is better.
        epochs: the most that a trial trains; 0 where there are none.
        seed: of trials; finalists are trained with the ones after it too.
        rows: hash of the training and validation rows.
        check: refuses settings that make no sense, with an `InputError`.
        run: trains and returns the score; calls the last argument with every epoch.
    """

    system: str
    sections: Sections
    configs: Mapping[str, type[Config]]
    metric: str
    direction: Literal["max", "min"]
    epochs: int
    seed: int
    rows: str
    check: Callable[[Sections], object]
    run: Callable[[Sections, int, Callable[[Any], None]], Outcome]

    def better(self, new: float, old: float) -> bool:
        """Return whether ``new`` is a better score than ``old``."""
        return new > old if self.direction == "max" else new < old


@dataclass(frozen=True)
class Found:
    """What a study found.

    Attributes:
        name: of the study in its storage.
        problem: what it was about.
        space: what it searched.
        trials: one for each place of the budget, oldest first: where a trial was retried, the
            retry.
        lost: trials whose process died, of which each was retried at most once.
        repeats: scores of finalists by number of the trial and seed, the study's own seed among
            them.
        winner: number of the best trial; None where none was completed.
        sections: every setting of the winner.
        importance: share of the score's variation that each field explains.
        front: numbers of the trials that no other beats in score and cost at once.
        run: id of MLflow's record, if there is one.
    """

    name: str
    problem: Problem
    space: Space
    trials: tuple[Trial, ...]
    lost: tuple[Trial, ...] = ()
    repeats: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    winner: int | None = None
    sections: Sections | None = None
    importance: Mapping[str, float] = field(default_factory=dict)
    front: tuple[int, ...] = ()
    run: str | None = None

    def trial(self, number: int) -> Trial:
        """Return a trial by its number."""
        return next(one for one in self.trials if one.number == number)

    @property
    def defaults(self) -> Trial | None:
        """The trial of the recipe as it stood, where it was completed."""
        found = [one for one in self.trials if one.is_default and one.state == "complete"]
        return found[0] if found else None

    def mean(self, number: int) -> float:
        """Return the mean score of a trial over the seeds that it was trained with."""
        values = self.repeats.get(number) or {self.problem.seed: self.trial(number).value}
        return sum(values.values()) / len(values)
