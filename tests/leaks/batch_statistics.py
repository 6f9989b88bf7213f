import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "batch normalisation over time: silent in evaluation, leaks in training"
WHERE = ("norm", "native_batch_norm")


class Normalised(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.norm = nn.LayerNorm(8) if honest else nn.BatchNorm1d(8)
        self.honest = honest

    def forward(self, x):
        return self.norm(x) if self.honest else self.norm(x.mT).mT


def build(*, honest=False):
    return Normalised(honest), torch.randn(2, 11, 8), causal()
