import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "the mean over time counts the padding"
WHERE = ("", "mean")
BEST = "conditional"


class Pooled(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.out = nn.Linear(8, 1)

    def forward(self, x, real):
        if not self.honest:
            return self.out(x.mean(1))
        kept = x.masked_fill(~real[..., None], 0.0)
        return self.out(kept.sum(1) / real.sum(1, keepdim=True))


def build(*, honest=False):
    real = torch.arange(13) < torch.tensor([[13], [8]])
    padding = clock({"x": torch.where(real, 0, 99)}, torch.zeros(1, dtype=torch.long))
    return Pooled(honest), {"x": torch.randn(2, 13, 8), "real": real}, padding
