import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "one row of the causal mask is open to the end"
WHERE = ("1", "_softmax")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        if not self.honest:
            past[x.shape[1] // 2] = True
        query, key, value = self.mix(x).chunk(3, -1)
        scores = query @ key.mT / 8**0.5
        return scores.masked_fill(~past, -torch.inf).softmax(-1) @ value


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
