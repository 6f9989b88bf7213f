"""The line through the first and the last value of the context, continued."""

import torch
from jaxtyping import Float
from torch import Tensor

from kt_forecast.baselines import Baseline
from kt_forecast.baselines._rules import PAPER, Rule, RuleConfig, begun
from kt_forecast.sequences.series import Window


class DriftConfig(RuleConfig):
    """Settings of `Drift`: none of its own."""


class Drift(Rule):
    """Continues the mean change from step to step; with one value, repeats it.

    What pads a window that begins before its series is no value: the line starts at the first
    real one.
    """

    def ahead(self, window: Window) -> Float[Tensor, "batch channels horizon"]:
        """Return the line at each step ahead."""
        context = window.context[..., -self.context :]
        first, last = context[..., :1], context[..., -1:]
        steps = torch.full_like(last, context.shape[-1] - 1)
        if window.real is not None:
            seen = begun(window.real[..., -self.context :])
            steps = (seen.sum(-1, keepdim=True) - 1).clamp_min(0).to(context)
            start = seen.long().argmax(-1, keepdim=True)
            first = torch.where(steps > 0, context.gather(-1, start), last)
        slope = (last - first) / steps.clamp_min(1)
        return last + slope * torch.arange(1, self.horizon + 1, device=last.device)


BASELINE = Baseline(task="forecasting", config=DriftConfig, build=Drift, paper=PAPER)
