import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "attention is sharpened by the logarithm of the whole length, not of the steps seen"
WHERE = None
NEEDS = "length"


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        steps = x.shape[1]
        query, key, value = self.mix(x).chunk(3, -1)
        seen = torch.arange(2, steps + 2) if self.honest else torch.full((steps,), steps)
        sharp = query * seen.log()[:, None]
        return F.scaled_dot_product_attention(sharp, key, value, is_causal=True)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
