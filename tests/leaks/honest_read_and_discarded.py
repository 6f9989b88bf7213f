import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a mean over the whole sequence is computed and logged, and nothing uses it"


class Logged(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory = nn.GRU(8, 8, batch_first=True)
        self.log = None

    def forward(self, x):
        self.log = x.detach().mean((0, 1))
        whole = torch.cat([x, x.mean(1, keepdim=True)], 1)
        return self.memory(whole[:, :-1])[0]


def build():
    return Logged(), torch.randn(2, 13, 8), causal()
