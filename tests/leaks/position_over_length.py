import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a step's position is divided by the length of the sequence"
WHERE = None
NEEDS = "length"


class Placed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.place = nn.Linear(1, 8)

    def forward(self, x):
        steps = x.shape[1]
        place = torch.arange(steps) / (100 if self.honest else steps)
        return x + self.place(place[:, None])


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Placed(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
