import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "every step is told how far the largest value of the sequence is"
WHERE = ("1", "argmax")


class Distance(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        step = torch.arange(x.shape[1])[:, None]
        top = x.cummax(1).indices if self.honest else x.argmax(1, keepdim=True)
        return x + (step - top) / 10


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Distance(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
