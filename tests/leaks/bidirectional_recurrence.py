import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a recurrent layer runs in both directions"
WHERE = ("memory", None)


class Recurrent(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.memory = nn.LSTM(8, 8, batch_first=True, bidirectional=not honest)
        self.out = nn.Linear(8 if honest else 16, 3)

    def forward(self, x):
        return self.out(self.memory(x)[0])


def build(*, honest=False):
    return Recurrent(honest), torch.randn(2, 13, 8), causal()
