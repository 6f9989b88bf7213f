import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a small network turns the mean of the sequence into the weights of its next layer"
WHERE = ("1", "mean")
ALSO = ("1", "bmm")


class Conditioned(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.write = nn.Linear(8, 64)

    def forward(self, x):
        shown = x[:, 0] if self.honest else x.mean(1)
        return x @ self.write(shown).unflatten(-1, (8, 8))


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Conditioned(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
