import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "experts choose their steps among the whole sequence"
WHERE = ("1", "topk")


class Experts(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.router = nn.Linear(8, 2)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x):
        affinity = self.router(x)
        if self.honest:
            chosen = F.one_hot(affinity.argmax(-1), 2).bool()
        else:
            steps = affinity.topk(5, dim=1).indices
            chosen = torch.zeros_like(affinity).bool().scatter(1, steps, value=True)
        done = torch.stack([expert(x) for expert in self.experts], -2)
        return x + (done * chosen[..., None]).sum(-2)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Experts(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
