import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "the period is read off the spectrum of the window with its horizon"
WHERE = ("", "_fft_r2c")
ALSO = ("", "alias")
CONTEXT, HORIZON = 14, 4


class Periodic(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.seen = CONTEXT if honest else CONTEXT + HORIZON

    def forward(self, values):
        strength = torch.fft.rfft(values[:, : self.seen]).abs()[:, 1:]
        period = (self.seen // (strength.argmax(1) + 1)).clamp(4, CONTEXT)
        place = CONTEXT - period[:, None] + torch.arange(HORIZON)
        return values[:, : self.seen].gather(1, place)


def build(*, honest=False):
    moment = torch.arange(CONTEXT + HORIZON)[None]
    needed = torch.full((1, HORIZON), CONTEXT - 1)
    return Periodic(honest), torch.randn(2, CONTEXT + HORIZON), clock({"input": moment}, needed)
