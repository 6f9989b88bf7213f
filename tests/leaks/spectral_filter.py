import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a filter learned in the frequency domain is circular and without a direction of time"
WHERE = ("1", "_fft_r2c")
ALSO = ("1", "_fft_c2r")


class Filtered(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.response = nn.Parameter(torch.randn(7, 8))

    def forward(self, x):
        steps = x.shape[1]
        if self.honest:
            kernel = self.response.mT[:, None]
            return F.conv1d(F.pad(x.mT, (6, 0)), kernel, groups=8).mT
        return torch.fft.irfft(torch.fft.rfft(x, dim=1) * self.response, n=steps, dim=1)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Filtered(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
