import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import clock

WHAT = "each layer keeps the delay allowed, and together they look twice as far ahead"
WHERE = ("2", "convolution")
AHEAD = 1


class Streaming(nn.Module):
    def __init__(self, pad):
        super().__init__()
        self.pad = pad
        self.weight = nn.Parameter(torch.randn(8, 8, 3) / 5)

    def forward(self, x):
        return F.conv1d(F.pad(x.mT, self.pad), self.weight).mT


def build(*, honest=False):
    second = Streaming((2, 0) if honest else (1, AHEAD))
    model = nn.Sequential(Streaming((1, AHEAD)), nn.Tanh(), second)
    step = torch.arange(13)[None]
    return model, torch.randn(2, 13, 8), clock({"input": step}, step + AHEAD)
