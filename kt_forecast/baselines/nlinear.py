"""NLinear: one linear map of a context that is measured from its last value.

The task subtracts the last value and adds it again (``normalisation = "last"``), so that a shift
of the series shifts the forecast by as much.

Departures from the paper:
    - none; with several outputs for a step ahead each has a map of its own.
"""

from jaxtyping import Float
from torch import Tensor, nn

from kt_forecast.baselines._linear import LinearAhead
from kt_forecast.nn.system import Cost, Paper, Promises, System, SystemConfig
from kt_forecast.sequences.series import Window, WindowShape


class NLinearConfig(SystemConfig):
    """Settings of `NLinear`.

    Attributes:
        width: not used: a linear map has none.
        individual: give each series a map of its own; for a task with ``mixing``, whose windows
            know which series they hold.
    """

    individual: bool = False


class NLinear(nn.Module):
    """A linear map from context to horizon."""

    def __init__(self, config: NLinearConfig, shape: WindowShape) -> None:
        super().__init__()
        self.ahead = LinearAhead(shape, individual=config.individual)

    def forward(self, window: Window) -> Float[Tensor, "batch channels horizon outputs"]:
        """Return the steps ahead; covariates are not read."""
        return self.ahead(window.context)


SYSTEM = System(
    family="linear",
    config=NLinearConfig,
    network=NLinear,
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
    forecasting={"context": 336, "normalisation": "last"},
)
