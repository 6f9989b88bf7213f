"""DLinear: a moving average and what is left of the series, each with a linear map of its own.

The average is centred on its step, inside the context; at both ends the end value is repeated.
Together the two maps are one linear map of the context, which training reaches by another path.

Departures from the paper:
    - none; with several outputs for a step ahead each has maps of its own.
"""

from typing import Self

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from kt_forecast.baselines._linear import LinearAhead
from kt_forecast.config import tunable
from kt_forecast.nn.system import Cost, Paper, Promises, System, SystemConfig
from kt_forecast.sequences.series import Window, WindowShape


class DLinearConfig(SystemConfig):
    """Settings of `DLinear`.

    Attributes:
        width: not used: a linear map has none.
        average: steps of the moving average, an odd number.
        individual: give each series maps of its own; for a task with ``mixing``, whose windows
            know which series they hold.
    """

    average: int = tunable(25, (13, 25, 49), ge=1)
    individual: bool = False

    @model_validator(mode="after")
    def _is_centred(self) -> Self:
        if self.average % 2 == 0:
            raise ValueError("average must be odd, so that it has a step in its middle")
        return self


class DLinear(nn.Module):
    """Linear maps of trend and remainder, added."""

    def __init__(self, config: DLinearConfig, shape: WindowShape) -> None:
        super().__init__()
        self.average = config.average
        self.of_trend = LinearAhead(shape, individual=config.individual, even=True)
        self.of_rest = LinearAhead(shape, individual=config.individual, even=True)

    def trend(
        self, x: Float[Tensor, "batch channels context"]
    ) -> Float[Tensor, "batch channels context"]:
        """Return the moving average of each channel."""
        half = self.average // 2
        return F.avg_pool1d(F.pad(x, (half, half), mode="replicate"), self.average, stride=1)

    def forward(self, window: Window) -> Float[Tensor, "batch channels horizon outputs"]:
        """Return the steps ahead; covariates are not read."""
        trend = self.trend(window.context)
        return self.of_trend(trend) + self.of_rest(window.context - trend)


SYSTEM = System(
    family="linear",
    config=DLinearConfig,
    network=DLinear,
    paper=Paper(
        title="Are Transformers Effective for Time Series Forecasting?",
        authors="Zeng, Chen, Zhang, Xu",
        year=2023,
        url="https://arxiv.org/abs/2205.13504",
    ),
    promises=Promises(
        causality="window",
        streaming=False,
        two_streams=False,
        cost=Cost(training_flops=1, training_bytes=1, step_flops=0, state_bytes=0),
    ),
    forecasting={"context": 336, "normalisation": "none"},
)
