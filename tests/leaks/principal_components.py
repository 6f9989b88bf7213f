import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "steps are projected on the principal axes of the whole sequence"
WHERE = ("1", "_linalg_eigh")
ALSO = ("1", "bmm")


class Projected(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        spread = x[:, :1].mT @ x[:, :1] if self.honest else x.mT @ x
        axes = torch.linalg.eigh(spread + torch.diag(torch.arange(8.0))).eigenvectors[..., -2:]
        return x @ axes @ axes.mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Projected(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
