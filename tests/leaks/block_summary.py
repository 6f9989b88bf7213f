import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a step attends to the mean of its own block, which is not over yet (nanochat issue 844)"
WHERE = ("1", "mean")
ALSO = ("1", "slice")
AT = "repeat_interleave(BLOCK"
BLOCK = 4


class Compressed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.ago = 1 if honest else 0

    def forward(self, x):
        rows, steps, width = x.shape
        padded = F.pad(x, (0, 0, 0, -steps % BLOCK))
        mean = padded.reshape(rows, -1, BLOCK, width).mean(2)
        mean = F.pad(mean, (0, 0, self.ago, 0))[:, : mean.shape[1]]
        return x + mean.repeat_interleave(BLOCK, 1)[:, :steps]


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Compressed(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 23, 8), causal()
