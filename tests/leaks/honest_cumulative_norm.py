import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "mean and spread of the steps so far"


class Normalised(nn.Module):
    def forward(self, x):
        count = torch.arange(1, x.shape[1] + 1)[:, None]
        mean = x.cumsum(1) / count
        spread = (x.square().cumsum(1) / count - mean.square()).clamp(min=1e-6)
        return (x - mean) * spread.rsqrt()


def build():
    return Normalised(), torch.randn(2, 13, 8), causal()
