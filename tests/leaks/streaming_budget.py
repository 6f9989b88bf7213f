import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import clock

WHAT = "a streaming convolution looks one step further ahead than the delay it may cause"
WHERE = ("1", "convolution")
AHEAD = 2


class Streaming(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.pad = (2, AHEAD) if honest else (1, AHEAD + 1)
        self.weight = nn.Parameter(torch.randn(8, 8, 5) / 6)

    def forward(self, x):
        return F.conv1d(F.pad(x.mT, self.pad), self.weight).mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Streaming(honest), nn.Linear(8, 3))
    step = torch.arange(13)[None]
    return model, torch.randn(2, 13, 8), clock({"input": step}, step + AHEAD)
