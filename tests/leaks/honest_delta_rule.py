import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a fast-weight memory solved for all steps at once by a unit lower triangle (DeltaNet)"


class DeltaRule(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        query, key, value = self.mix(x).chunk(3, -1)
        key = F.normalize(key, dim=-1)
        below = (key @ key.mT).tril(-1)
        written = torch.linalg.solve_triangular(below, value, upper=False, unitriangular=True)
        return (query @ key.mT).tril() @ written


def build():
    return DeltaRule(), torch.randn(2, 13, 8), causal()
