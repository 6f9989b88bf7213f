import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "frames of a short-time spectrum are centred on their step"
WHERE = ("1", "unfold")


class Spectrogram(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.pad = (7, 0) if honest else (4, 3)
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        frames = F.pad(x[..., 0], self.pad).unfold(1, 8, 1)
        return self.out(torch.fft.rfft(frames).abs())


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 1), Spectrogram(honest))
    return model, torch.randn(2, 13, 8), causal()
