import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "memory slots stand before the keys, and the flag for causality hides more than it must"


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 24)
        self.memory = nn.Parameter(torch.randn(3, 8))

    def forward(self, x):
        query, key, value = self.mix(x).chunk(3, -1)
        slots = self.memory.expand(len(x), -1, -1)
        key, value = torch.cat([slots, key], 1), torch.cat([slots, value], 1)
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def build():
    return Attention(), torch.randn(2, 13, 8), causal()
