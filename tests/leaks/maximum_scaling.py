import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "values are scaled by the largest of the whole sequence"
WHERE = ("1", "amax")
ALSO = ("1", "div")


class Scaled(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        size = x.abs()
        largest = size.cummax(1).values if self.honest else size.amax(1, keepdim=True)
        return x / (largest + 1e-3)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Scaled(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
