"""What the runs that one process makes one after another share, and when they are asked to end."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from kt_forecast.experiment.running import hashed

T = TypeVar("T")


@dataclass(frozen=True)
class Left:
    """What the last run left in memory.

    Attributes:
        folder: of the run.
        fitted: the model.
        rows: what it was trained and tested on.
        scores: of the first protocol, by the name of what was scored.
    """

    folder: Path
    fitted: Any
    rows: Any
    scores: Mapping[str, Any]


@dataclass
class Station:
    """A process that makes runs.

    Attributes:
        ends: asked before every batch whether training shall end with the best epoch so far.
        pages: whether each run gets a page even where nothing tracks it; ``report`` makes it later.
        trained: when the last training ended, by `time.monotonic`; None before one did.
        left: of the last run.
    """

    ends: Callable[[], bool] | None = None
    pages: bool = True
    trained: float | None = None
    left: Left | None = None
    _made: dict[str, Any] = field(default_factory=dict)

    def once(self, key: list[Any], make: Callable[[], T]) -> T:
        """Return what was made before of the same plain values."""
        name = hashed(key)
        if name not in self._made:
            self._made[name] = make()
        found: T = self._made[name]
        return found

    def fitted_beside(
        self, beside: Sequence[Any], rows: str, fit: Callable[[list[Any]], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Return baselines by name, those fitted before on the same rows from memory.

        Args:
            beside: their plans.
            rows: hash of data, split and labels.
            fit: returns the baselines of some plans.
        """

        def fitted(one: Any) -> Any:  # noqa: ANN401 - a baseline of either task
            return fit([one])[one.name]

        return {
            one.name: self.once(["beside", rows, one.plain()], partial(fitted, one))
            for one in beside
        }

    def note_trained(self) -> None:
        """Note that a training has ended."""
        self.trained = time.monotonic()

    def left_by(self, folder: Path) -> Left | None:
        """Return what the run of a folder left, where it was the last one."""
        return self.left if self.left is not None and self.left.folder == folder else None
