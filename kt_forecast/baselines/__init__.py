"""What a sceptic would use instead of a deep system, one file each; the folder is the registry.

A file exports ``BASELINE``, a model fitted with arrays, or ``SYSTEM``, a small neural system that
trains as those of the zoo do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from kt_forecast.config import Config
from kt_forecast.nn.system import Paper, System, modules_in, named
from kt_forecast.sequences.interactions import StudentSequences, Vocabulary
from kt_forecast.sequences.series import Forecast, SeriesSet, WindowBatch, WindowShape
from kt_forecast.sequences.windows import Origins


@runtime_checkable
class FittedBaseline(Protocol):
    """A baseline that is fitted once, with no gradient steps."""

    def fit(
        self, train: StudentSequences, valid: StudentSequences | None, vocabulary: Vocabulary
    ) -> Self:
        """Learn from the training students; ``valid`` may choose, never teach."""
        ...

    def predict(
        self,
        sequences: StudentSequences,
        *,
        history: int | None = None,
        unit: Literal["steps", "rows"] = "steps",
    ) -> npt.NDArray[np.float64]:
        """Return p_correct of each step from what it may look back on; nan where not scored."""
        ...

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything learned, by name."""
        ...

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Take what `arrays` returned."""
        ...


@runtime_checkable
class FittedForecaster(Protocol):
    """A forecasting baseline that is fitted once, with no gradient steps.

    Attributes:
        context: steps that it looks back on, once it is fitted.
    """

    context: int

    def fit(
        self, series: SeriesSet, train: Origins, valid: Origins | None, shape: WindowShape
    ) -> Self:
        """Learn from the windows of ``train``; those of ``valid`` may choose, never teach."""
        ...

    def predict(self, batch: WindowBatch) -> Forecast:
        """Return what is predicted for the steps ahead, read from ``batch.window`` alone."""
        ...

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything learned, by name."""
        ...

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Take what `arrays` returned."""
        ...


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a fitted baseline's file exports as ``BASELINE``.

    Attributes:
        config: its settings, with search spaces beside the fields.
        build: makes the unfitted baseline from the settings: a `FittedBaseline`, or a
            `FittedForecaster`.
        paper: where it comes from; None for what needs no paper.
        task: what it predicts.
    """

    config: type[Config]
    build: Callable[[Any], Any]
    paper: Paper | None
    task: Literal["knowledge_tracing", "forecasting"] = "knowledge_tracing"


def names() -> list[str]:
    """Return the names of all baselines, from the folder."""
    return list(modules_in("kt_forecast.baselines"))


def load(name: str) -> Baseline | System:
    """Return a baseline by name.

    Raises:
        InputError: no file of the folder has that name; the nearest is suggested.
    """
    module = import_module(named("kt_forecast.baselines", name, "__name__", "baseline"))
    found: Baseline | System = getattr(module, "BASELINE", None) or module.SYSTEM
    return found


def of_scored(
    sequences: StudentSequences, p_correct: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the predictions, nan at steps that are history only."""
    return np.where(sequences.scored.numpy(), p_correct, np.nan)
