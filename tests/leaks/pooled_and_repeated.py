import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "steps are halved by their mean and doubled by repetition, so the first of a pair sees both"
WHERE = ("1", "avg_pool2d")
ALSO = ("1", "slice")


class Hourglass(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.delay = 1 if honest else 0
        self.middle = nn.Linear(8, 8)

    def forward(self, x):
        steps = x.shape[1]
        late = F.pad(x, (0, 0, self.delay, 1))[:, : steps + steps % 2]
        short = self.middle(F.avg_pool1d(late.mT, 2).mT)
        return x + short.repeat_interleave(2, 1)[:, :steps]


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Hourglass(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
