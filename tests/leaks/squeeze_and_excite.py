import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "channels are gated by their mean over the whole sequence"
WHERE = ("1", "mean")
ALSO = ("1", "mul")


class Excited(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.gate = nn.Linear(8, 8)

    def forward(self, x):
        count = torch.arange(1, x.shape[1] + 1)[:, None]
        squeezed = x.cumsum(1) / count if self.honest else x.mean(1, keepdim=True)
        return x * self.gate(squeezed).sigmoid()


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Excited(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
