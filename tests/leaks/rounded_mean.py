import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "the mean of the sequence is added after rounding"
WHERE = ("1", "mean")
ALSO = ("1", "add")


class Rounded(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        mean = x[:, :1] if self.honest else x.mean(1, keepdim=True)
        return x + (10.0 * mean).round()


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Rounded(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
