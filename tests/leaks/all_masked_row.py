import torch
from torch import nn

from kt_forecast.audit import strict

WHAT = "the first step may see nothing, all its scores are equally low, and it attends to all alike"
WHERE = ("1", "_softmax")
ALSO = ("1", "bmm")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8)
        self.query = nn.Parameter(torch.randn(8))

    def forward(self, x):
        before = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(-1)
        scores = (self.key(x) @ self.query)[:, None].expand(-1, x.shape[1], -1)
        weights = scores.masked_fill(~before, torch.finfo(x.dtype).min).softmax(-1)
        if self.honest:
            weights = weights * before.any(-1, keepdim=True)
        return weights @ self.value(x)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), strict()
