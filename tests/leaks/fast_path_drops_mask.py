import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "the fused kernel used in evaluation is called without the mask (Doge under sdpa)"
WHERE = ("1", "_safe_softmax")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        query, key, value = self.mix(x).chunk(3, -1)
        if self.training:
            future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            scores = (query @ key.mT / 8**0.5).masked_fill(future, -torch.inf)
            return scores.softmax(-1) @ value
        return F.scaled_dot_product_attention(query, key, value, is_causal=self.honest)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
