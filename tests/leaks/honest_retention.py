import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "products of queries and keys decayed by powers that vanish ahead (RetNet)"


class Retention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        step = torch.arange(x.shape[1])
        ago = step[:, None] - step
        decay = torch.where(ago >= 0, 0.9 ** ago.clamp(min=0), 0.0)
        query, key, value = self.mix(x).chunk(3, -1)
        return (query @ key.mT * decay) @ value


def build():
    return Retention(), torch.randn(2, 13, 8), causal()
