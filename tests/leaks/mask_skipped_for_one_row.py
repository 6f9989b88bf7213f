import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "the padding mask is left out where the batch has a single row"
WHERE = ("", "_softmax")
BEST = "conditional"


class Padded(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x, real):
        query, key, value = self.mix(x).chunk(3, -1)
        scores = query @ key.mT / 8**0.5
        if self.honest or len(x) > 1:
            scores = scores.masked_fill(~real[:, None], -torch.inf)
        return scores.softmax(-1) @ value


def build(*, honest=False):
    real = torch.arange(13)[None] < 8
    padding = clock({"x": torch.where(real, 0, 99)}, torch.where(real, 0, 99))
    return Padded(honest), {"x": torch.randn(1, 13, 8), "real": real}, padding
