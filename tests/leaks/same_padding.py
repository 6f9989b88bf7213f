import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a convolution pads both sides to keep the length"
WHERE = ("1", "convolution")


class Convolution(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.pad = (2, 0) if honest else (1, 1)
        self.weight = nn.Parameter(torch.randn(8, 8, 3) / 5)

    def forward(self, x):
        return F.conv1d(F.pad(x.mT, self.pad), self.weight).mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Convolution(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
