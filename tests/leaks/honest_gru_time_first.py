import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a recurrent layer with time before the batch, transposed there and back"


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory = nn.GRU(8, 8)

    def forward(self, x):
        return self.memory(x.transpose(0, 1))[0].transpose(0, 1)


def build():
    return Recurrent(), torch.randn(2, 13, 8), causal()
