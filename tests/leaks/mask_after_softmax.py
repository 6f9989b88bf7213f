import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "the mask is put on after the softmax, whose denominator has already seen every score"
WHERE = ("1", "_softmax")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        query, key, value = self.mix(x).chunk(3, -1)
        scores = query @ key.mT / 8**0.5
        if self.honest:
            return scores.masked_fill(~past, -torch.inf).softmax(-1) @ value
        return scores.softmax(-1).masked_fill(~past, 0.0) @ value


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
