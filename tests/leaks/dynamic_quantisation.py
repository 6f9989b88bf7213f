import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "activations are rounded to a grid whose width is set by the largest of the whole tensor"
WHERE = ("1", "amax")
ALSO = ("1", "div")


class Quantised(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.axes = (2,) if honest else (0, 1, 2)

    def forward(self, x):
        grid = x.abs().amax(self.axes, keepdim=True) / 127 + 1e-6
        return (x / grid).round() * grid


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Quantised(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
