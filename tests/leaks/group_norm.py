import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "group normalisation of channels also averages over time"
WHERE = ("1.norm", "native_group_norm")


class Normalised(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x):
        if self.honest:
            return self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.norm(x.mT).mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Normalised(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
