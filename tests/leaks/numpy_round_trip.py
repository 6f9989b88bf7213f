import numpy as np
import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "the mean of the sequence is taken in numpy"
WHERE = ("1", None)


class Centred(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        if self.honest:
            return x - x[:, :1]
        return x - torch.from_numpy(np.mean(x.detach().numpy(), axis=1, keepdims=True))


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Centred(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
