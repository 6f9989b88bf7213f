import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "scaling by the mean and spread of the whole sequence"
WHERE = ("", "mean")


class Scaled(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.step = nn.Linear(1, 1)

    def forward(self, x):
        if self.honest:
            count = torch.arange(1, x.shape[1] + 1)[:, None]
            mean = x.cumsum(1) / count
            spread = (x.square().cumsum(1) / count - mean.square()).clamp_min(1e-6).sqrt()
        else:
            mean, spread = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        return self.step((x - mean) / (spread + 1.0))


def build(*, honest=False):
    return Scaled(honest), torch.randn(2, 11, 1), causal()
