import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "steps are sorted into buckets by a hash and attend to whoever shares the bucket (Reformer)"
WHERE = ("1", "_softmax")


class Hashed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.planes = nn.Linear(8, 2)
        self.mix = nn.Linear(8, 16)

    def forward(self, x):
        bucket = self.planes(x).argmax(-1)
        shared = bucket[:, :, None] == bucket[:, None]
        if self.honest:
            shared = shared.tril()
        shared_key, value = self.mix(x).chunk(2, -1)
        scores = (shared_key @ shared_key.mT).masked_fill(~shared, -torch.inf)
        return scores.softmax(-1) @ value


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Hashed(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
