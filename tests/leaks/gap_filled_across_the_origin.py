import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "a gap before the origin is filled on a line towards the first value after it"
WHERE = ("", "lerp")
CONTEXT, HORIZON = 13, 5


class Filled(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.out = nn.Linear(CONTEXT, HORIZON)

    def forward(self, values, observed):
        context = values[:, :CONTEXT]
        left = context[:, -3:-2]
        right = left if self.honest else values[:, CONTEXT : CONTEXT + 1]
        line = torch.lerp(left, right, torch.tensor([1 / 3, 2 / 3]))
        filled = torch.cat([context[:, :-2], line], 1)
        return self.out(torch.where(observed, context, filled))


def build(*, honest=False):
    observed = (torch.arange(CONTEXT) < CONTEXT - 2).expand(2, -1)
    batch = {"values": torch.randn(2, CONTEXT + HORIZON), "observed": observed}
    moment = torch.arange(CONTEXT + HORIZON)[None]
    needed = torch.full((1, HORIZON), CONTEXT - 1)
    return Filled(honest), batch, clock({"values": moment}, needed)
