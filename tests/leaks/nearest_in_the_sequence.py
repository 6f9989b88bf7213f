import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "each step is replaced by its nearest neighbour in the whole sequence"
WHERE = ("1", "argmin")
BEST = "conditional"


class Quantised(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        steps = x.shape[1]
        distance = torch.cdist(x, x) + 1e3 * torch.eye(steps)
        if self.honest:
            future = torch.ones(steps, steps, dtype=torch.bool).triu(1)
            distance = distance.masked_fill(future, torch.inf)
        nearest = distance.argmin(-1)[..., None].expand_as(x)
        return x + x.gather(1, nearest)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Quantised(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
