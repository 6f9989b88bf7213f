import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a running sum runs from the end"
WHERE = ("1", "cumsum")
ALSO = ("1", "flip")
AT = "x.flip(1).cumsum(1)"


class RunningSum(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        return x.cumsum(1) if self.honest else x.flip(1).cumsum(1).flip(1)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), RunningSum(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
