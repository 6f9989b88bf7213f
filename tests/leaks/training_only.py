import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a smoother that reads the next step is switched on in training alone"
WHERE = ("1", "add")
ALSO = ("1", "slice")
AT = "(0, 0, 0, 1)"


class Smoothed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        if not self.training:
            return x
        if self.honest:
            return x + F.pad(x, (0, 0, 1, 0))[:, :-1]
        return x + F.pad(x, (0, 0, 0, 1))[:, 1:]


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Smoothed(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
