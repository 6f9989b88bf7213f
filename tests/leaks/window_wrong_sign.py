import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "the sliding window counts the distance from the key to the query with the wrong sign"
WHERE = ("1", "_softmax")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.sign = 1 if honest else -1
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        step = torch.arange(x.shape[1])
        ago = self.sign * (step[:, None] - step)
        visible = (ago >= 0) & (ago < 4)
        query, key, value = self.mix(x).chunk(3, -1)
        scores = query @ key.mT / 8**0.5
        return scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
