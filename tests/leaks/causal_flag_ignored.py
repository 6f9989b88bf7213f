import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "the causal flag reaches the fused kernel only, not the path that also returns the weights"
WHERE = ("1.attention", "_softmax")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x, *, is_causal, need_weights):
        query, key, value = self.mix(x).chunk(3, -1)
        if not need_weights:
            return F.scaled_dot_product_attention(query, key, value, is_causal=is_causal), None
        scores = query @ key.mT / 8**0.5
        if is_causal and self.honest:
            future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, -torch.inf)
        weights = scores.softmax(-1)
        return weights @ value, weights


class Block(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.attention = Attention(honest)

    def forward(self, x):
        return x + self.attention(x, is_causal=True, need_weights=True)[0]


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Block(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
