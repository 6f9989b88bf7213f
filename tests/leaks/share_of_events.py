import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "the number of eventful steps, a shape, is given to every step"
WHERE = ("1", "nonzero")
ALSO = ("1", "add")


class Counted(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        eventful = x[..., 0] > 0
        if self.honest:
            return x + eventful.cumsum(1)[..., None] / 10
        counts = [len(row.nonzero()) / 10 for row in eventful]
        return x + torch.tensor(counts)[:, None, None]


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Counted(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
