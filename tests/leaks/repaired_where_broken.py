import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "one undefined value anywhere in the sequence and all of it is set to zero"
WHERE = ("1", "any")
ALSO = ("1", "masked_fill")
NEEDS = "dependency"


class Repaired(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        broken = x.isnan()
        if not self.honest:
            broken = broken.any(1, keepdim=True)
        return x.masked_fill(broken, 0.0)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Repaired(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
