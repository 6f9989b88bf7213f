import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "a lag of exactly the horizon reads the last steps of the context"
CONTEXT, HORIZON = 13, 5


class Lagged(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.9))

    def forward(self, values):
        return self.weight * values.roll(HORIZON, 1)[:, CONTEXT:]


def build():
    moment = torch.arange(CONTEXT + HORIZON)[None]
    needed = torch.full((1, HORIZON), CONTEXT - 1)
    return Lagged(), torch.randn(2, CONTEXT + HORIZON), clock({"input": moment}, needed)
