import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "circular padding puts the last steps before the first"
WHERE = ("1", "convolution")


class Convolution(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.mode = "constant" if honest else "circular"
        self.weight = nn.Parameter(torch.randn(8, 8, 3) / 5)

    def forward(self, x):
        return F.conv1d(F.pad(x.mT, (2, 0), mode=self.mode), self.weight).mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Convolution(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
