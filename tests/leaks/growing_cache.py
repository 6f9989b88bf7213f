import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "keys and values of earlier calls stay in the cache and are attended to"
WHERE = None


class Cached(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)
        self.cache = []

    def forward(self, x):
        if self.honest:
            self.cache.clear()
        query, key, value = self.mix(x).chunk(3, -1)
        self.cache.append((key.detach(), value.detach()))
        del self.cache[:-2]
        key = torch.cat([key for key, _ in self.cache], 1)
        value = torch.cat([value for _, value in self.cache], 1)
        visible = torch.ones(x.shape[1], key.shape[1], dtype=torch.bool)
        visible = visible.tril(key.shape[1] - x.shape[1])
        scores = (query @ key.mT).masked_fill(~visible, -torch.inf)
        return scores.softmax(-1) @ value


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Cached(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
