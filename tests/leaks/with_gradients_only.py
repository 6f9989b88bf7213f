import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "the mask is forgotten on the path taken while gradients are recorded"
WHERE = ("1", "_softmax")
NEEDS = "gradients"


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        query, key, value = self.mix(x).chunk(3, -1)
        if torch.is_grad_enabled() and not self.honest:
            return (query @ key.mT / 8**0.5).softmax(-1) @ value
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
