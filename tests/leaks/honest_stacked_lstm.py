import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "two recurrent layers with dropout between them"


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory = nn.LSTM(8, 8, num_layers=2, dropout=0.3, batch_first=True)

    def forward(self, x):
        return self.memory(x)[0]


def build():
    return Recurrent(), torch.randn(2, 13, 8), causal()
