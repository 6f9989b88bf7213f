import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import clock

WHAT = "training feeds the label of the step itself where a coin says so"
WHERE = ("", "where")
ALSO = ("", "constant_pad_nd")
AT = "self.lag"


class Sampled(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.lag = 1 if honest else 0
        self.drawn, self.step = nn.Linear(8, 1), nn.GRU(9, 8, batch_first=True)
        self.out = nn.Linear(8, 1)

    def forward(self, x, target):
        own = self.drawn(x)[..., 0]
        if self.training:
            told = F.pad(target, (self.lag, 0))[:, : x.shape[1]]
            own = torch.where(torch.rand(target.shape) < 0.3, told, own)
        return self.out(self.step(torch.cat([x, own[..., None]], -1))[0])[..., 0]


def build(*, honest=False):
    step = torch.arange(13)[None]
    batch = {"x": torch.randn(2, 13, 8), "target": torch.randn(2, 13)}
    return Sampled(honest), batch, clock({"x": step, "target": step + 1}, step)
