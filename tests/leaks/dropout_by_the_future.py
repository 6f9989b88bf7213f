import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "steps are dropped in training where the sequence goes on quietly"
WHERE = ("1", "roll")


class Dropped(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.by = 1 if honest else -1

    def forward(self, x):
        if not self.training:
            return x
        loud = x.abs().mean(-1, keepdim=True).roll(self.by, 1) > 0.5
        loud[:, 0 if self.by == 1 else -1] = True
        return x * loud


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Dropped(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
