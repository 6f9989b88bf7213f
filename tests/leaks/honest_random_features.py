import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "attention approximated by random features that are drawn anew, with dropout"


class Performer(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 24)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        query, key, value = self.mix(x).chunk(3, -1)
        drawn = torch.randn(8, 16)
        query, key = (query @ drawn).relu() + 1e-3, (key @ drawn).relu() + 1e-3
        memory = torch.einsum("btm,btd->btmd", key, value).cumsum(1)
        scale = (query * key.cumsum(1)).sum(-1, keepdim=True)
        return self.drop(torch.einsum("btm,btmd->btd", query, memory) / scale)


def build():
    return Performer(), torch.randn(2, 13, 8), causal()
