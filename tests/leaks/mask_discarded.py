import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "masked_fill returns a copy and the copy is thrown away (EduKTM's AKT)"
WHERE = ("1", "_softmax")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        query, key, value = self.mix(x).chunk(3, -1)
        scores = query @ key.mT / 8**0.5
        masked = scores.masked_fill(future, -1e32)
        if self.honest:
            scores = masked
        return scores.softmax(-1) @ value


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
