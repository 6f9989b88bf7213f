import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "the delays to attend to are those of the strongest correlation of the whole sequence"
WHERE = ("1", "_fft_r2c")


class AutoCorrelation(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        steps = x.shape[1]
        if self.honest:
            return sum(F.pad(x, (0, 0, delay, 0))[:, :steps] for delay in (1, 2, 5))
        spectrum = torch.fft.rfft(x, dim=1)
        correlation = torch.fft.irfft(spectrum * spectrum.conj(), n=steps, dim=1).mean(-1)
        strength, delay = correlation.topk(3, dim=1)
        weight = strength.softmax(-1)
        past = (torch.arange(steps)[None, :, None] - delay[:, None]) % steps
        found = x[torch.arange(len(x))[:, None, None], past]
        return (weight[:, None, :, None] * found).sum(2)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), AutoCorrelation(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
