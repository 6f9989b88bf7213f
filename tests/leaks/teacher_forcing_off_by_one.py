import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import clock

WHAT = "in training the decoder is given the target of the step itself instead of the one before"
WHERE = ("", "cat")
ALSO = ("", "constant_pad_nd")
AT = "self.lag"


class Decoder(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.lag = 1 if honest else 0
        self.memory = nn.GRU(9, 8, batch_first=True)
        self.out = nn.Linear(8, 1)

    def forward(self, x, target):
        told = F.pad(target, (self.lag, 0))[:, : x.shape[1]]
        if not self.training:
            told = torch.zeros_like(told)
        return self.out(self.memory(torch.cat([x, told[..., None]], -1))[0])[..., 0]


def build(*, honest=False):
    step = torch.arange(13)[None]
    batch = {"x": torch.randn(2, 13, 8), "target": torch.randn(2, 13)}
    return Decoder(honest), batch, clock({"x": step, "target": step + 1}, step)
