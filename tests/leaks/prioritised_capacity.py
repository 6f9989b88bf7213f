import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a full expert keeps the tokens with the best scores of the sequence, not the first"
WHERE = ("1", "sort")


class Experts(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.router = nn.Linear(8, 1)
        self.expert = nn.Linear(8, 8)

    def forward(self, x):
        score = self.router(x)[..., 0]
        if self.honest:
            taken = (score > 0) & ((score > 0).cumsum(1) <= 5)
        else:
            taken = score.argsort(1, descending=True).argsort(1) < 5
        return x + self.expert(x) * taken[..., None]


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Experts(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
