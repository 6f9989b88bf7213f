import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a temporal convolution cuts off less than its dilation has padded"
WHERE = ("1", "slice")


class Convolution(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.convolution = nn.Conv1d(8, 8, 3, padding=4, dilation=2)

    def forward(self, x):
        steps = x.shape[1]
        padded = self.convolution(x.mT)
        start = 0 if self.honest else 2
        return padded[..., start : start + steps].mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Convolution(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
