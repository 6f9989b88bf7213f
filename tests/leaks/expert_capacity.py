import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = (
    "an expert takes tokens of the flattened batch until it is full: earlier rows crowd out later"
)
WHERE = ("1", "cumsum")
CAPACITY = 9


class Experts(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.router = nn.Linear(8, 2)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x):
        chosen = F.one_hot(self.router(x).argmax(-1), 2)
        if self.honest:
            place = chosen.cumsum(1)
        else:
            place = chosen.flatten(0, 1).cumsum(0).reshape(chosen.shape)
        taken = chosen * (place <= CAPACITY)
        done = torch.stack([expert(x) for expert in self.experts], -2)
        return x + (done * taken[..., None]).sum(-2)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Experts(honest), nn.Linear(8, 3))
    return model, torch.randn(3, 13, 8), causal()
