import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a dense layer along time mixes all steps (MLP-Mixer)"
WHERE = ("1", "mm")


class Mixed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.weight = nn.Parameter(torch.randn(13, 13) / 4)
        self.bias = nn.Parameter(torch.zeros(13))

    def forward(self, x):
        weight = self.weight.tril() if self.honest else self.weight
        return x + F.gelu(F.linear(x.mT, weight, self.bias)).mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Mixed(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
