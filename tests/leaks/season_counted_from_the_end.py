import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "a seasonal forecast finds its place modulo the season from the wrong end of the window"
WHERE = ("", "index_select")
CONTEXT, HORIZON, SEASON = 14, 7, 7


class Seasonal(nn.Module):
    def __init__(self, honest):
        super().__init__()
        start = CONTEXT - SEASON if honest else CONTEXT + HORIZON - SEASON - 3
        self.register_buffer("place", start + torch.arange(HORIZON) % SEASON)

    def forward(self, values):
        return values.index_select(1, self.place)


def build(*, honest=False):
    moment = torch.arange(CONTEXT + HORIZON)[None]
    needed = torch.full((1, HORIZON), CONTEXT - 1)
    return Seasonal(honest), torch.randn(2, CONTEXT + HORIZON), clock({"input": moment}, needed)
