import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a chunked scan sums over the wrong chunk axis: a chunk gets its own total (Zamba2)"
WHERE = ("1", "sum")
ALSO = ("1", "slice")
CHUNK = 4


class ChunkedScan(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.axis = 1 if honest else 2
        self.decay = nn.Parameter(torch.tensor(-0.1))

    def forward(self, x):
        rows, steps, width = x.shape
        chunks = F.pad(x, (0, 0, 0, -steps % CHUNK)).reshape(rows, -1, CHUNK, width)
        count = chunks.shape[1]
        carry = torch.ones(count, count).triu(1) * self.decay.exp()
        before = (carry[:, :, None] * chunks.sum(2)[:, :, None]).sum(self.axis)
        return (chunks.cumsum(2) + before[:, :, None]).reshape(rows, -1, width)[:, :steps]


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), ChunkedScan(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 23, 8), causal()
