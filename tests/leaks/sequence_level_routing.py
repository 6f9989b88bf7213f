import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "one expert serves a whole sequence and is chosen by its mean"
WHERE = ("1", "mean")
ALSO = ("1", "mul")


class Experts(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.router = nn.Linear(8, 2)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x):
        shown = x[:, :1] if self.honest else x.mean(1, keepdim=True)
        chosen = F.one_hot(self.router(shown).argmax(-1), 2)
        done = torch.stack([expert(x) for expert in self.experts], -2)
        return x + (done * chosen[..., None]).sum(-2)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Experts(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
