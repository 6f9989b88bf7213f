import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a shift by roll with the wrong sign: the next step instead of the last"
WHERE = ("1", "roll")


class Shifted(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.by = 1 if honest else -1

    def forward(self, x):
        before = x.roll(self.by, 1)
        edge = 0 if self.by == 1 else -1
        outside = torch.zeros(x.shape[1], 1, dtype=torch.bool)
        outside[edge] = True
        return x + before.masked_fill(outside, 0.0)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Shifted(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
