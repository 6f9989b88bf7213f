import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "running statistics are updated by the sequence before it is normalised with them"
WHERE = ("1", "mean")
ALSO = ("1", "sub")


class Adapted(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        if not self.honest:
            self.mean.lerp_(x.detach().mean((0, 1)), 0.1)
        return x - self.mean


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Adapted(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
