import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "the path for compilers leaves the mask out"
WHERE = ("1", "_safe_softmax")
NEEDS = "compiled"


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        query, key, value = self.mix(x).chunk(3, -1)
        masked = self.honest or not torch.compiler.is_compiling()
        return F.scaled_dot_product_attention(query, key, value, is_causal=masked)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
