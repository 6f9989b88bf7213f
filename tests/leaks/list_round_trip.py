import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a loop over Python lists looks one entry too far"
WHERE = ("1", None)
BEST = "unproven"


class Listed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.ahead = 0 if honest else 1

    def forward(self, x):
        rows = x.detach()[..., 0].tolist()
        highest = [[max(row[: t + 1 + self.ahead]) for t in range(len(row))] for row in rows]
        return x + torch.tensor(highest)[..., None]


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Listed(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
