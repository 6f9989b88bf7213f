import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a buffer is rolled and its oldest place overwritten before it is read"


class Ring(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, x):
        ring = torch.zeros(len(x), 4, 8)
        read = []
        for t in range(x.shape[1]):
            ring = ring.roll(1, 1)
            ring[:, 0] = x[:, t]
            read.append((self.weight[:, None] * ring).sum(1))
        return torch.stack(read, 1)


def build():
    return Ring(), torch.randn(2, 13, 8), causal()
