import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "steps are sorted by expert for the matrix products and put back where they were"
BEST = "unproven"
NEEDS = "float64"


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        flat = x.flatten(0, 1)
        chosen = self.router(flat).argmax(-1)
        order = chosen.argsort(stable=True)
        groups = flat[order].split(torch.bincount(chosen, minlength=3).tolist())
        done = torch.cat([expert(g) for expert, g in zip(self.experts, groups, strict=True)])
        return x + torch.zeros_like(flat).index_put((order,), done).reshape(x.shape)


def build():
    return Experts(), torch.randn(2, 13, 8), causal()
