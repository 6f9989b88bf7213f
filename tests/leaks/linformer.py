import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "keys and values are projected along time before a query could be masked"
WHERE = ("1.squeeze", "mm")
ALSO = ("1", "bmm")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)
        self.squeeze = nn.Linear(13, 4, bias=False)

    def forward(self, x):
        query, key, value = self.mix(x).chunk(3, -1)
        if self.honest:
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)
        key, value = self.squeeze(key.mT).mT, self.squeeze(value.mT).mT
        return (query @ key.mT / 8**0.5).softmax(-1) @ value


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
