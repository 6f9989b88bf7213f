import torch
from torch import nn

from kt_forecast.audit import causal, clock

WHAT = "a mask for a prefix that is read whole, used where every step is to be predicted"
WHERE = ("1", "_softmax")
PREFIX = 5


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        visible = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        visible[:PREFIX, :PREFIX] = True
        query, key, value = self.mix(x).chunk(3, -1)
        scores = query @ key.mT / 8**0.5
        return scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(), nn.Linear(8, 3))
    step = torch.arange(13)[None]
    given = clock({"input": step.masked_fill(step < PREFIX, 0)}, step)
    return model, torch.randn(2, 13, 8), given if honest else causal()
