import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "the weather of the horizon is used as observed where only past weather is known"
WHERE = ("", "cat")
CONTEXT, HORIZON = 13, 5


class Forecaster(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.out = nn.Linear(2 * CONTEXT + HORIZON, HORIZON)

    def forward(self, past, weather):
        seen = weather[:, :CONTEXT]
        ahead = seen[:, -1:].expand(-1, HORIZON) if self.honest else weather[:, CONTEXT:]
        return self.out(torch.cat([past, seen, ahead], 1))


def build(*, honest=False):
    batch = {"past": torch.randn(2, CONTEXT), "weather": torch.randn(2, CONTEXT + HORIZON)}
    moment = torch.arange(CONTEXT + HORIZON)[None]
    known = {"past": moment[:, :CONTEXT], "weather": moment}
    return Forecaster(honest), batch, clock(known, torch.full((1, HORIZON), CONTEXT - 1))
