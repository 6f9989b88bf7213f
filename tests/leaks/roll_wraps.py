import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a shift by roll brings the last step to the front"
WHERE = ("1", "roll")


class Shifted(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        before = F.pad(x, (0, 0, 1, 0))[:, :-1] if self.honest else x.roll(1, 1)
        return x + before


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Shifted(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
