import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "channels are joined by how they correlate over the whole sequence"
WHERE = ("1", "bmm")


class Graph(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.edges = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        edges = self.edges if self.honest else (x.mT @ x).softmax(-1)
        return x @ edges


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Graph(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
