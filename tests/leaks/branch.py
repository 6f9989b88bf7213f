import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "the last value decides which of two branches the whole sequence takes"
WHERE = ("1", "_local_scalar_dense")
BEST = "unproven"


class Branched(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.decides = 0 if honest else -1

    def forward(self, x):
        return torch.stack([row if row[self.decides, 0] > 0 else row.tanh() for row in x])


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Branched(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
