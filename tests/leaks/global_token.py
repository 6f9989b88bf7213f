import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a global token reads the whole sequence and is read by every step"
WHERE = ("1", "_softmax")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        steps = x.shape[1]
        visible = torch.ones(steps, steps, dtype=torch.bool).tril()
        if not self.honest:
            visible[0] = True
        for _ in range(2):
            query, key, value = self.mix(x).chunk(3, -1)
            scores = query @ key.mT / 8**0.5
            x = x + scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value
        return x


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
