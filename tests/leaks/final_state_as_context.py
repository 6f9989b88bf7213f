import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "the last state of a recurrent layer is handed to every step"
WHERE = ("", "add")


class Recurrent(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.memory = nn.GRU(8, 8, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        states, final = self.memory(x)
        return self.out(states if self.honest else states + final[-1][:, None])


def build(*, honest=False):
    return Recurrent(honest), torch.randn(2, 13, 8), causal()
