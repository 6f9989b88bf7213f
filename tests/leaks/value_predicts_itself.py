import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import strict

WHAT = "an autoregressive model is handed the value it is to predict (DeepAR off by one)"
WHERE = ("", "constant_pad_nd")


class DeepAr(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.lag = 1 if honest else 0
        self.memory = nn.LSTM(1, 8, batch_first=True)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        before = F.pad(x, (0, 0, self.lag, 0))[:, : x.shape[1]]
        return self.out(self.memory(before)[0])


def build(*, honest=False):
    return DeepAr(honest), torch.randn(2, 13, 1), strict()
