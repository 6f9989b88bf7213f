import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a scale leaves torch as a Python number and comes back"
WHERE = ("1", "_local_scalar_dense")
ALSO = ("1", "div")


class Scaled(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        scales = [1.0 if self.honest else row.std().item() for row in x]
        return x / torch.tensor(scales)[:, None, None]


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Scaled(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
