import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "each step has a view of its last few steps, cut by unfold and pooled"


class Windowed(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 8)

    def forward(self, x):
        windows = F.pad(x, (0, 0, 3, 0)).unfold(1, 4, 1)
        return self.out(windows.amax(-1) - windows.median(-1).values)


def build():
    return Windowed(), torch.randn(2, 13, 8), causal()
