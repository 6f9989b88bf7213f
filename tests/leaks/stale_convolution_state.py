import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a convolution starts from the last steps of the call before"
WHERE = None


class Streaming(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.weight = nn.Parameter(torch.randn(8, 8, 3) / 5)
        self.before = None

    def forward(self, x):
        if self.before is None or self.honest:
            self.before = torch.zeros(len(x), 2, 8)
        whole = torch.cat([self.before, x], 1)
        self.before = whole[:, -2:].detach()
        return F.conv1d(whole.mT, self.weight).mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Streaming(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
