import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "several query heads share a key and value head, with rotated positions"


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.shared = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        query = self.rotate(self.query(x).unflatten(-1, (4, 2)).transpose(1, 2))
        key, value = self.shared(x).unflatten(-1, (2, 2)).transpose(1, 2).chunk(2, 1)
        key = self.rotate(key)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return mixed.transpose(1, 2).flatten(2)

    def rotate(self, x):
        angle = torch.arange(x.shape[2])
        left, right = x.chunk(2, -1)
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        return torch.cat([left * cos - right * sin, left * sin + right * cos], -1)


def build():
    return Attention(), torch.randn(2, 13, 8), causal()
