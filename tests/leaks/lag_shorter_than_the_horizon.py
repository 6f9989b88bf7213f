import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "a lag shorter than the horizon reads values that lie in the horizon"
WHERE = ("", "slice")
ALSO = ("", "mul")
AT = "CONTEXT - self.lag"
CONTEXT, HORIZON = 13, 5


class Lagged(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.lag = HORIZON + 2 if honest else 2
        self.weight = nn.Parameter(torch.tensor(0.9))

    def forward(self, values):
        return self.weight * values[:, CONTEXT - self.lag :][:, :HORIZON]


def build(*, honest=False):
    moment = torch.arange(CONTEXT + HORIZON)[None]
    needed = torch.full((1, HORIZON), CONTEXT - 1)
    return Lagged(honest), torch.randn(2, CONTEXT + HORIZON), clock({"input": moment}, needed)
