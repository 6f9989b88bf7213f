import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "linear attention by running sums of outer products"


class LinearAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        query, key, value = self.mix(x).chunk(3, -1)
        query, key = F.elu(query) + 1, F.elu(key) + 1
        memory = (key[..., None] * value[..., None, :]).cumsum(1)
        mixed = torch.einsum("btd,btde->bte", query, memory)
        return mixed / ((query * key.cumsum(1)).sum(-1, keepdim=True) + 1e-6)


def build():
    return LinearAttention(), torch.randn(2, 13, 8), causal()
