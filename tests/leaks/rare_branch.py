import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a sequence with an extreme value takes another branch, and the sample has none"
WHERE = ("1", "_local_scalar_dense")
NEEDS = "dependency"


class Guarded(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        if self.honest:
            return x.clamp(-1e6, 1e6)
        return x.clamp(-1.0, 1.0) if x.abs().max() > 1e6 else x


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Guarded(honest), nn.Linear(8, 3))
    return model, torch.randn(1, 13, 8), causal()
