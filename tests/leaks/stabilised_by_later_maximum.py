import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "exponentials are kept in range by the largest key of the whole sequence and can underflow"
WHERE = ("1", "amax")
ALSO = ("1", "sub")


class LinearAttention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        key, value = self.key(x), self.value(x)
        if self.honest:
            total = key.logcumsumexp(1)
            past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
            weights = (key[:, None] - total[:, :, None]).masked_fill(~past[..., None], -torch.inf)
            return (weights.exp() * value[:, None]).sum(2)
        weight = (key - key.amax(1, keepdim=True)).exp()
        return (weight * value).cumsum(1) / (weight.cumsum(1) + 1e-6)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), LinearAttention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
