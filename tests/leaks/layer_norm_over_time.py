import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "layer normalisation is told to normalise the time axis too"
WHERE = ("1.norm", "native_layer_norm")


class Normalised(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.norm = nn.LayerNorm(8 if honest else (13, 8))

    def forward(self, x):
        return self.norm(x)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Normalised(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
