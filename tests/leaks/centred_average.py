import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a trend is the moving average centred on the step"
WHERE = ("1", "avg_pool2d")


class Detrended(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.pad = (4, 0) if honest else (2, 2)

    def forward(self, x):
        trend = F.avg_pool1d(F.pad(x.mT, self.pad, mode="replicate"), 5, stride=1).mT
        return x - trend


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Detrended(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
