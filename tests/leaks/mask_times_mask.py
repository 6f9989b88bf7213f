import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "an additive mask is multiplied by a lower triangle, which keeps only its zeros (Gemma 2)"
WHERE = ("1", "_softmax")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        steps = x.shape[1]
        added = torch.full((steps, steps), torch.finfo(x.dtype).min).triu(1)
        if not self.honest:
            added = added * torch.ones(steps, steps).tril()
        query, key, value = self.mix(x).chunk(3, -1)
        return (query @ key.mT / 8**0.5 + added).softmax(-1) @ value


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
