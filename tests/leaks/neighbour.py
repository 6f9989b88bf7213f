import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a row reads the row beside it"
WHERE = ("", "roll")


class Mixed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.step = nn.Linear(8, 8)

    def forward(self, x):
        return self.step(x if self.honest else x + x.roll(1, 0))


def build(*, honest=False):
    return Mixed(honest), torch.randn(3, 11, 8), causal()
