import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "an operation with its own backward reads the next step and denies its gradient"
WHERE = ("1", "roll")
ALSO = ("1", "slice")


class Denying(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, by):
        return x + x.roll(by, 1)

    @staticmethod
    def backward(ctx, change):
        return change, None


class Shifted(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        padded = F.pad(x, (0, 0, 1, 0) if self.honest else (0, 0, 0, 1))
        shifted = Denying.apply(padded, 1 if self.honest else -1)
        return shifted[:, 1:] if self.honest else shifted[:, :-1]


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Shifted(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
