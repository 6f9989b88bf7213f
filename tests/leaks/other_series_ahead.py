import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import clock

WHAT = "another series of the panel, whose clock runs ahead, is read at the same index"
WHERE = ("", "add")
ALSO = ("", "constant_pad_nd")
AT = "self.delay"
AHEAD = 1


class Panel(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.delay = AHEAD if honest else 0
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, values, other):
        return values + self.weight * F.pad(other, (self.delay, 0))[:, : values.shape[1]]


def build(*, honest=False):
    step = torch.arange(13)[None]
    batch = {"values": torch.randn(2, 13), "other": torch.randn(2, 13)}
    return Panel(honest), batch, clock({"values": step, "other": step + AHEAD}, step)
