import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a step knows how many are still to come"
WHERE = None
NEEDS = "length"


class Placed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.place = nn.Embedding(64, 8)

    def forward(self, x):
        place = torch.arange(x.shape[1])
        return x + self.place(place if self.honest else place.flip(0))


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Placed(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
