"""What the forecasting rules share: nothing is learned but the sizes of a window."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float
from pydantic import PositiveInt
from torch import Tensor

from kt_forecast.config import Config
from kt_forecast.nn.system import Paper
from kt_forecast.sequences.series import Forecast, SeriesSet, Window, WindowBatch, WindowShape
from kt_forecast.sequences.windows import Origins

PAPER = Paper(
    title="Forecasting: Principles and Practice, Some Simple Forecasting Methods",
    authors="Hyndman, Athanasopoulos",
    year=2021,
    url="https://otexts.com/fpp3/simple-methods.html",
)
"""Where the rules are described."""


class RuleConfig(Config):
    """Settings of a rule.

    Attributes:
        context: steps before the origin that it reads; None for as many as the systems beside it.
    """

    context: PositiveInt | None = None


class Rule:
    """A forecast that is a formula of the context.

    A rule says what is `ahead` of a window; it may say what context it `wants`.
    """

    def __init__(self, config: RuleConfig) -> None:
        self.config = config
        self.context = config.context or 1
        self.horizon = 1
        self.season = 1

    def fit(
        self, series: SeriesSet, train: Origins, valid: Origins | None, shape: WindowShape
    ) -> Self:
        """Take the sizes of the windows; no value is read."""
        del series, train, valid
        self.horizon, self.season = shape.horizon, shape.season
        self.context = self.config.context or self.wants(shape)
        return self

    def wants(self, shape: WindowShape) -> int:
        """Return how many steps the rule reads where no setting says so."""
        return shape.context

    def predict(self, batch: WindowBatch) -> Forecast:
        """Return the rule's forecast; it has no quantiles."""
        return Forecast(point=self.ahead(batch.window))

    def ahead(self, window: Window) -> Float[Tensor, "batch channels horizon"]:
        """Return one number for each step ahead."""
        raise NotImplementedError

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the sizes."""
        return {"sizes": np.array([self.context, self.horizon, self.season])}

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Take the sizes."""
        self.context, self.horizon, self.season = (int(size) for size in arrays["sizes"])
        return self


def begun(real: Bool[Tensor, "batch channels context"]) -> Bool[Tensor, "batch channels context"]:
    """Return where a series has begun: at its first real value and after it."""
    return real.cumsum(-1) > 0
