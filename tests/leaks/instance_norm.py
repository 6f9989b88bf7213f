import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "instance normalisation takes mean and spread over the whole sequence"
WHERE = ("1.norm", "native_batch_norm")


class Normalised(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.norm = nn.LayerNorm(8) if honest else nn.InstanceNorm1d(8, affine=True)

    def forward(self, x):
        return self.norm(x) if self.honest else self.norm(x.mT).mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Normalised(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
