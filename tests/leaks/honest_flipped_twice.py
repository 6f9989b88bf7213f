import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "the sequence is reversed, convolved towards the future, and reversed again"


class Flipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(8, 8, 3)

    def forward(self, x):
        return self.convolution(F.pad(x.flip(1).mT, (0, 2))).mT.flip(1)


def build():
    return Flipped(), torch.randn(2, 13, 8), causal()
