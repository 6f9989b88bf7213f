import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "scores fall with the distance on both sides, and nothing masks the later side"
WHERE = ("1", "_softmax")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        step = torch.arange(x.shape[1])
        ago = step[:, None] - step
        query, key, value = self.mix(x).chunk(3, -1)
        scores = query @ key.mT / 8**0.5 - 0.5 * ago.abs()
        if self.honest:
            scores = scores.masked_fill(ago < 0, -torch.inf)
        return scores.softmax(-1) @ value


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
