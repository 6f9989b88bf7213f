"""The mean of the context, repeated."""

import torch
from jaxtyping import Float
from torch import Tensor

from kt_forecast.baselines import Baseline
from kt_forecast.baselines._rules import PAPER, Rule, RuleConfig
from kt_forecast.sequences.series import Window


class WindowMeanConfig(RuleConfig):
    """Settings of `WindowMean`: none of its own."""


class WindowMean(Rule):
    """Repeats the mean of the real values of the context; the last value where none is real."""

    def ahead(self, window: Window) -> Float[Tensor, "batch channels horizon"]:
        """Return the mean for each step ahead."""
        context = window.context[..., -self.context :]
        mean = context.mean(-1, keepdim=True)
        if window.real is not None:
            real = window.real[..., -self.context :]
            count = real.sum(-1, keepdim=True)
            of_real = (context * real).sum(-1, keepdim=True) / count.clamp_min(1)
            mean = torch.where(count > 0, of_real, context[..., -1:])
        return mean.repeat(1, 1, self.horizon)


BASELINE = Baseline(task="forecasting", config=WindowMeanConfig, build=WindowMean, paper=PAPER)
