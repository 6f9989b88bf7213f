"""The last cycle, repeated: each step ahead gets the value at the same place of its season."""

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from kt_forecast.baselines import Baseline
from kt_forecast.baselines._rules import PAPER, Rule, RuleConfig, begun
from kt_forecast.sequences.series import Window, WindowShape


class SeasonalNaiveConfig(RuleConfig):
    """Settings of `SeasonalNaive`.

    Attributes:
        context: steps before the origin that it reads; None for one season.
        season: steps of the cycle; None for that of the series.
    """

    season: PositiveInt | None = None


class SeasonalNaive(Rule):
    """Repeats the last season; exact on a series that repeats itself.

    A step whose place in the last season lies before the context, or before the series, gets the
    last value.
    """

    config: SeasonalNaiveConfig

    def wants(self, shape: WindowShape) -> int:
        """Return one season."""
        return self.config.season or shape.season

    def ahead(self, window: Window) -> Float[Tensor, "batch channels horizon"]:
        """Return the value one whole number of seasons before each step ahead."""
        season = self.config.season or self.season
        context, real = window.context, window.real
        length = context.shape[-1]
        place = length - season + torch.arange(self.horizon, device=context.device) % season
        found = context[..., place.clamp_min(0)]
        there = (place >= 0).expand(found.shape)
        if real is not None:
            there = there & begun(real)[..., place.clamp_min(0)]
        return torch.where(there, found, context[..., -1:])


BASELINE = Baseline(
    task="forecasting", config=SeasonalNaiveConfig, build=SeasonalNaive, paper=PAPER
)
