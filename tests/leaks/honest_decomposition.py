import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import clock

WHAT = "the context alone is split into a centred trend and a season (DLinear)"
CONTEXT, HORIZON = 13, 5


class Decomposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.trend, self.season = nn.Linear(CONTEXT, HORIZON), nn.Linear(CONTEXT, HORIZON)

    def forward(self, values):
        past = values[:, :CONTEXT]
        trend = F.avg_pool1d(F.pad(past, (2, 2), mode="replicate"), 5, stride=1)
        return self.trend(trend) + self.season(past - trend)


def build():
    moment = torch.arange(CONTEXT + HORIZON)[None]
    needed = torch.full((1, HORIZON), CONTEXT - 1)
    return Decomposed(), torch.randn(2, CONTEXT + HORIZON), clock({"input": moment}, needed)
