import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a registered buffer carries the last step of one call into the next"
WHERE = None
NEEDS = "replay"


class Streaming(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.register_buffer("before", torch.zeros(2, 1, 8))

    def forward(self, x):
        before = torch.zeros_like(x[:, :1]) if self.honest else self.before.clone()
        self.before.copy_(x[:, -1:].detach())
        return x + torch.cat([before, x[:, :-1]], 1)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Streaming(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
