import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a dense layer along time whose upper triangle is zero by construction (MADE)"


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(13, 13))
        self.register_buffer("past", torch.ones(13, 13).tril())

    def forward(self, x):
        return torch.einsum("ts,bsd->btd", self.weight * self.past, x).relu()


def build():
    return Masked(), torch.randn(2, 13, 8), causal(axis=1)
