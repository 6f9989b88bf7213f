import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a path through the observations has slopes from both neighbours (splines of neural CDEs)"
WHERE = ("1", "slice")


class Path(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        before = F.pad(x, (0, 0, 1, 0))[:, :-1]
        after = F.pad(x, (0, 0, 0, 1))[:, 1:]
        slope = x - before if self.honest else (after - before) / 2
        return x + slope


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Path(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
