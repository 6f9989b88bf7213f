import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a running sum of values weighted by a softmax over all of time (the first ATKT)"
WHERE = ("1", "_softmax")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.score = nn.Linear(8, 1)

    def forward(self, x):
        score = self.score(x)
        if self.honest:
            return (score.exp() * x).cumsum(1) / score.exp().cumsum(1)
        return (score.softmax(1) * x).cumsum(1)


def build(*, honest=False):
    model = nn.Sequential(nn.Tanh(), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
