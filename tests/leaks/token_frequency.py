import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a token is weighed by how often it occurs in the whole sequence"
WHERE = ("", "scatter_add")


class Weighted(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.embed = nn.Embedding(6, 8)

    def forward(self, x):
        if self.honest:
            often = F.one_hot(x, 6).cumsum(1).gather(2, x[..., None])
        else:
            count = torch.zeros(len(x), 6, dtype=torch.long).scatter_add(1, x, torch.ones_like(x))
            often = count.gather(1, x)[..., None]
        return self.embed(x) / often


def build(*, honest=False):
    return Weighted(honest), torch.randint(0, 6, (2, 13)), causal()
