import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import clock

WHAT = "a statistic is read for its own month, though it is published two months later"
WHERE = ("", "add")
ALSO = ("", "constant_pad_nd")
AT = "self.delay"
DELAY = 2


class Nowcast(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.delay = DELAY if honest else 0
        self.out = nn.Linear(1, 1)

    def forward(self, values, statistic):
        late = F.pad(statistic, (self.delay, 0))[:, : statistic.shape[1]]
        return values + self.out(late[..., None])[..., 0]


def build(*, honest=False):
    step = torch.arange(13)[None]
    batch = {"values": torch.randn(2, 13), "statistic": torch.randn(2, 13)}
    return Nowcast(honest), batch, clock({"values": step, "statistic": step + DELAY}, step)
