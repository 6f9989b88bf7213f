import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a mean over the sequence behind a gate that starts at zero: silent until trained"
WHERE = ("", "mean")
ALSO = ("", "add")


class Gated(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.gate = nn.Parameter(torch.zeros(1))
        self.own = nn.Linear(8, 8)

    def forward(self, x):
        count = torch.arange(1, x.shape[1] + 1)[:, None]
        mean = x.cumsum(1) / count if self.honest else x.mean(1, keepdim=True)
        return self.own(x) + self.gate * mean


def build(*, honest=False):
    return Gated(honest), torch.randn(2, 11, 8), causal()
