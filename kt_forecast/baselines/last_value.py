"""The last value, repeated: the forecast of a random walk."""

from jaxtyping import Float
from torch import Tensor

from kt_forecast.baselines import Baseline
from kt_forecast.baselines._rules import PAPER, Rule, RuleConfig
from kt_forecast.sequences.series import Window, WindowShape


class LastValueConfig(RuleConfig):
    """Settings of `LastValue`: none of its own."""


class LastValue(Rule):
    """Repeats the last value of the context; where it is missing, the last one before it."""

    def wants(self, shape: WindowShape) -> int:
        """Return one step."""
        del shape
        return 1

    def ahead(self, window: Window) -> Float[Tensor, "batch channels horizon"]:
        """Return the last value for each step ahead."""
        return window.context[..., -1:].repeat(1, 1, self.horizon)


BASELINE = Baseline(task="forecasting", config=LastValueConfig, build=LastValue, paper=PAPER)
