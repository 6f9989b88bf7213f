import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "the largest value so far and where it was"


class Running(nn.Module):
    def forward(self, x):
        best = x.cummax(1)
        ago = torch.arange(x.shape[1])[:, None] - best.indices
        return best.values + x.logcumsumexp(1) / (1 + ago)


def build():
    return Running(), torch.randn(2, 13, 8), causal()
