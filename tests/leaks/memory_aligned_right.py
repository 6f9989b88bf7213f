import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "memory slots follow the keys, and a mask aligned to the last key opens as many steps ahead"
WHERE = ("1", "_softmax")
ALSO = ("1", "bmm")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)
        self.memory = nn.Parameter(torch.randn(3, 8))

    def forward(self, x):
        rows, steps, _ = x.shape
        query, key, value = self.mix(x).chunk(3, -1)
        key = torch.cat([key, self.memory.expand(rows, -1, -1)], 1)
        value = torch.cat([value, self.memory.expand(rows, -1, -1)], 1)
        visible = torch.ones(steps, steps + 3, dtype=torch.bool).tril(0 if self.honest else 3)
        if self.honest:
            visible[:, steps:] = True
        scores = query @ key.mT / 8**0.5
        return scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
