import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "padding on the left is attended to like any past step"
WHERE = ("", "_softmax")
BEST = "conditional"


class Padded(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x, real):
        visible = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()[None]
        if self.honest:
            visible = visible & real[:, None]
        query, key, value = self.mix(x).chunk(3, -1)
        scores = query @ key.mT / 8**0.5
        return scores.masked_fill(~visible, -1e30).softmax(-1) @ value


def build(*, honest=False):
    step = torch.arange(13).expand(2, -1)
    real = step >= torch.tensor([[0], [4]])
    late = step.masked_fill(~real, 99)
    return Padded(honest), {"x": torch.randn(2, 13, 8), "real": real}, clock({"x": late}, late)
