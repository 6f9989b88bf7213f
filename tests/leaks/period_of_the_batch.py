import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "periods are read off the spectrum averaged over the batch (TimesNet)"
WHERE = ("1", "_fft_r2c")
ALSO = ("1", "_local_scalar_dense")
AT = "argmax()"


class Periodic(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        steps = x.shape[1]
        if self.honest:
            period = 3
        else:
            strength = torch.fft.rfft(x, dim=1).abs().mean((0, 2))
            strength[0] = 0.0
            period = steps // int(strength.detach().argmax())
        return x + F.pad(x, (0, 0, period, 0))[:, :steps]


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Periodic(honest), nn.Linear(8, 3))
    return model, torch.randn(3, 13, 8), causal()
