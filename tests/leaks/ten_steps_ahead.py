import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a seasonal lag is read ahead instead of back"
WHERE = ("1", "slice")


class Seasonal(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.pad = (10, 0) if honest else (0, 10)

    def forward(self, x):
        steps = x.shape[1]
        padded = F.pad(x, (0, 0, *self.pad))
        return x + (padded[:, :steps] if self.pad[0] else padded[:, -steps:])


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Seasonal(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
