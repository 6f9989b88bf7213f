"""Predictions of batches back to the steps they belong to, each step exactly once."""

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

from kt_forecast.sequences.interactions import Batch


class Collector:
    """Gathers predictions by place and refuses to take one place twice or leave one out.

    Args:
        scored: the steps that shall be predicted.
    """

    def __init__(self, scored: npt.NDArray[np.bool_]) -> None:
        self._scored = scored
        self._times = np.zeros(len(scored), dtype=np.int64)
        self._p_correct = np.full(len(scored), np.nan)

    def add(self, batch: Batch, p_correct: Float[Tensor, "batch time"]) -> None:
        """Take the predictions of the batch's scored steps."""
        wanted = (batch.scored & batch.real).cpu()
        place = batch.place.cpu()[wanted].numpy()
        np.add.at(self._times, place, 1)
        self._p_correct[place] = p_correct.detach().cpu()[wanted].double().numpy()

    def result(self) -> npt.NDArray[np.float64]:
        """Return p_correct of every step, nan where not scored.

        Raises:
            RuntimeError: a scored step was predicted twice or never, or another one at all.
        """
        require_once(self._scored, self._times)
        return self._p_correct


def require_once(scored: npt.NDArray[np.bool_], times: npt.NDArray[np.int64]) -> None:
    """Check how many times each step was predicted.

    Raises:
        RuntimeError: a scored step was predicted twice or never, or another one at all.
    """
    wrong = np.flatnonzero(times != scored)
    if len(wrong):
        place = wrong[0]
        wanted = "once" if scored[place] else "never"
        raise RuntimeError(
            f"{len(wrong)} steps were not predicted as often as they are scored: the step at place"
            f" {place} was predicted {times[place]} times instead of {wanted}"
        )
