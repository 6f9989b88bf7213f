import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a long causal convolution by the Fourier transform of a sequence padded to twice its length"
BEST = "conditional"
NEEDS = "float64"


class LongConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(13, 8) / 4)

    def forward(self, x):
        steps = x.shape[1]
        spectrum = torch.fft.rfft(x, n=2 * steps, dim=1)
        filtered = spectrum * torch.fft.rfft(self.kernel, n=2 * steps, dim=0)
        return torch.fft.irfft(filtered, n=2 * steps, dim=1)[:, :steps]


def build():
    return LongConvolution(), torch.randn(2, 13, 8), causal()
