import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "experts choose their steps among the whole sequence and weigh them with a smooth gate"
WHERE = ("1", "topk")


class Experts(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.router = nn.Linear(8, 2)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x):
        gate = self.router(x).softmax(-1)
        if not self.honest:
            steps = gate.topk(5, dim=1).indices
            gate = gate * torch.zeros_like(gate).scatter(1, steps, value=1.0)
        done = torch.stack([expert(x) for expert in self.experts], -2)
        return x + (done * gate[..., None]).sum(-2)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Experts(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
