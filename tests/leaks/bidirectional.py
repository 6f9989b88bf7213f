import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "attention without a mask: every step reads the whole sequence"
WHERE = ("attention", "_safe_softmax")


class Mixer(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        steps = x.shape[1]
        mask = torch.ones(steps, steps, dtype=torch.bool).triu(1) if self.honest else None
        return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


def build(*, honest=False):
    return Mixer(honest), torch.randn(2, 11, 8), causal()
