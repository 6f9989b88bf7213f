import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a pooling window reaches one step ahead"
WHERE = ("1", "max_pool2d_with_indices")


class Pooled(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.pad = (2, 0) if honest else (1, 1)

    def forward(self, x):
        return F.max_pool1d(F.pad(x.mT, self.pad, value=-torch.inf), 3, stride=1).mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Pooled(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
