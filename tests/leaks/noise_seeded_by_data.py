import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "random noise is seeded by the sum of the sequence"
WHERE = ("1", "_local_scalar_dense")


class Noisy(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        noisy = []
        for row in x:
            seed = 0 if self.honest else int(1e4 * row.detach().abs().sum())
            generator = torch.Generator().manual_seed(seed)
            noisy.append(row + torch.randn(64, 8, generator=generator)[: len(row)])
        return torch.stack(noisy)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Noisy(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
