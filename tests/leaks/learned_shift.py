import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "each step chooses how far away to look, and may choose a place ahead"
WHERE = ("1", "gather")
BEST = "conditional"


class Deformed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.offset = nn.Linear(8, 1)

    def forward(self, x):
        rows, steps, width = x.shape
        step = torch.arange(steps)[None, :, None]
        move = 3.0 * self.offset(x).tanh()
        there = (step + (-move.abs() if self.honest else move)).round().long()
        return x + x.gather(1, there.clamp(0, steps - 1).expand(rows, steps, width))


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Deformed(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
