import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a loop in Python takes numbers out of torch, each used for later steps alone"
BEST = "unproven"


class Online(nn.Module):
    def forward(self, x):
        rows = []
        for row in x.detach():
            mean, means = 0.0, []
            for t in range(len(row)):
                means.append(mean)
                mean = 0.9 * mean + 0.1 * row[t, 0].item()
            rows.append(means)
        return x - torch.tensor(rows)[..., None]


def build():
    return Online(), torch.randn(2, 13, 8), causal()
