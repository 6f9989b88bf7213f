import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a coarse sequence is interpolated, and a step between two coarse ones needs the later"
WHERE = ("1", "upsample_linear1d")
ALSO = ("1", "slice")


class Upsampled(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.mode = "nearest" if honest else "linear"

    def forward(self, x):
        steps = x.shape[1]
        coarse = x[:, ::2].mT
        return x + F.interpolate(coarse, scale_factor=2.0, mode=self.mode)[..., :steps].mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Upsampled(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
