import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a detached mean of the sequence is subtracted"
WHERE = ("1", "mean")
ALSO = ("1", "sub")


class Centred(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        mean = x[:, :1] if self.honest else x.mean(1, keepdim=True)
        return x - mean.detach()


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Centred(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
