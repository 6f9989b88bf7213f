import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a causal convolution is padded on the wrong side and sees the future only"
WHERE = ("1", "convolution")


class Convolution(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.pad = (2, 0) if honest else (0, 2)
        self.weight = nn.Parameter(torch.randn(8, 1, 3))

    def forward(self, x):
        return F.conv1d(F.pad(x.mT, self.pad), self.weight, groups=8).mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Convolution(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
