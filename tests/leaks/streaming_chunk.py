import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "attention sees its whole chunk, whose end is further away than the delay allowed"
WHERE = ("1", "_softmax")
CHUNK = 4


class Chunked(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        chunk = torch.arange(x.shape[1]) // CHUNK
        query, key, value = self.mix(x).chunk(3, -1)
        scores = (query @ key.mT).masked_fill(chunk > chunk[:, None], -torch.inf)
        return scores.softmax(-1) @ value


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Chunked(), nn.Linear(8, 3))
    step = torch.arange(13)[None]
    needed = (step // CHUNK + 1) * CHUNK - 1 if honest else step + 2
    return model, torch.randn(2, 13, 8), clock({"input": step}, needed)
