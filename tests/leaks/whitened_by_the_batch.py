import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "features are decorrelated with the covariance of all steps of all rows"
WHERE = ("1", "linalg_solve_triangular")


class Whitened(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.register_buffer("kept", torch.eye(8))

    def forward(self, x):
        flat = x.flatten(0, 1)
        covariance = self.kept if self.honest else flat.mT @ flat / len(flat) + torch.eye(8)
        root = torch.linalg.cholesky(covariance)
        return torch.linalg.solve_triangular(root, flat.mT, upper=False).mT.reshape(x.shape)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Whitened(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
