import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a parallel scan by doubling shifts by roll, so that the end wraps to the beginning"
WHERE = ("1", "roll")


class DoublingScan(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        reach = 1
        while reach < x.shape[1]:
            shifted = (
                F.pad(x, (0, 0, reach, 0))[:, : x.shape[1]] if self.honest else x.roll(reach, 1)
            )
            x = x + 0.5 * shifted
            reach *= 2
        return x


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), DoublingScan(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
