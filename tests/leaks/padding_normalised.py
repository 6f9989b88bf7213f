import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "features are normalised over real steps and padding alike"
WHERE = ("", "var_mean")
BEST = "conditional"


class Normalised(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x, real):
        if not self.honest:
            spread, mean = torch.var_mean(x, 1, keepdim=True)
            return (x - mean) / (spread + 1e-3).sqrt()
        kept = real[..., None]
        count = kept.sum(1, keepdim=True)
        mean = x.masked_fill(~kept, 0.0).sum(1, keepdim=True) / count
        spread = (x - mean).masked_fill(~kept, 0.0).square().sum(1, keepdim=True) / count
        return (x - mean) / (spread + 1e-3).sqrt()


def build(*, honest=False):
    real = torch.arange(13) < torch.tensor([[13], [8]])
    padding = clock({"x": torch.where(real, 0, 99)}, torch.where(real, 0, 99))
    return Normalised(honest), {"x": torch.randn(2, 13, 8), "real": real}, padding
