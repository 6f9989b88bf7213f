import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "states are clipped by the norm of the whole sequence"
WHERE = ("1", "linalg_vector_norm")
ALSO = ("1", "mul")


class Clipped(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.axes = (2,) if honest else (1, 2)

    def forward(self, x):
        norm = torch.linalg.vector_norm(x, dim=self.axes, keepdim=True)
        return x * (1.0 / norm).clamp(max=1.0)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Clipped(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
