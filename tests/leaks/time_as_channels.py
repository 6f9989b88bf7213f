import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "the convolution was given steps where it expects channels and mixes all of them"
WHERE = ("1.convolution", "convolution")


class Convolution(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.convolution = nn.Conv1d(8, 8, 3) if honest else nn.Conv1d(13, 13, 3, padding=1)

    def forward(self, x):
        return self.convolution(F.pad(x.mT, (2, 0))).mT if self.honest else self.convolution(x)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Convolution(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
