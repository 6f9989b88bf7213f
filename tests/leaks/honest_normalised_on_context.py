import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "instance normalisation over the context, undone on the horizon (RevIN)"
CONTEXT, HORIZON = 13, 5


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(CONTEXT, HORIZON)

    def forward(self, values):
        past = values[:, :CONTEXT]
        spread, mean = torch.var_mean(past, 1, keepdim=True)
        scale = (spread + 1e-3).sqrt()
        return self.out((past - mean) / scale) * scale + mean


def build():
    moment = torch.arange(CONTEXT + HORIZON)[None]
    needed = torch.full((1, HORIZON), CONTEXT - 1)
    return Forecaster(), torch.randn(2, CONTEXT + HORIZON), clock({"input": moment}, needed)
