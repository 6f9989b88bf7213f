import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "values become their ranks in the whole sequence"
WHERE = ("1", "sort")


class Ranked(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        if self.honest:
            past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
            below = (x[:, :, None] > x[:, None]) & past[..., None]
            return below.sum(2) / 10
        return x.argsort(1).argsort(1) / 10


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Ranked(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
