import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "one channel of one step reads one channel of one later step"
WHERE = ("1", "select")
ALSO = ("1", "copy_")
AT = "self.read"


class Pair(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.read = 3 if honest else 9

    def forward(self, x):
        x = x.clone()
        x[:, 8, 5] = x[:, 8, 5] + x[:, self.read, 2]
        return x


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Pair(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
