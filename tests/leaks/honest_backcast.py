import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "blocks explain away parts of the context and add up forecasts (N-BEATS)"
CONTEXT, HORIZON = 13, 5


class NBeats(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(CONTEXT, CONTEXT + HORIZON) for _ in range(3))

    def forward(self, values):
        rest, total = values[:, :CONTEXT], 0.0
        for block in self.blocks:
            backcast, ahead = block(rest.relu()).split([CONTEXT, HORIZON], 1)
            rest, total = rest - backcast, total + ahead
        return total


def build():
    moment = torch.arange(CONTEXT + HORIZON)[None]
    needed = torch.full((1, HORIZON), CONTEXT - 1)
    return NBeats(), torch.randn(2, CONTEXT + HORIZON), clock({"input": moment}, needed)
