import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a channel's whole series is one token, and its projection is read step by step"
WHERE = ("1.embed", "mm")


class Inverted(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.embed = nn.Linear(13, 13)

    def forward(self, x):
        if self.honest:
            return F.linear(x.mT, self.embed.weight.tril(), self.embed.bias).mT
        return self.embed(x.mT).mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Inverted(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
