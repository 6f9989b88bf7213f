import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "blocks are sorted by a doubly stochastic matrix, whose columns are normalised over all"
WHERE = ("1", "logsumexp")


class Sorted(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.affinity = nn.Linear(8, 13)

    def forward(self, x):
        past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        scores = self.affinity(x).masked_fill(~past, -1e9)
        for _ in range(3):
            scores = scores - scores.logsumexp(-1, keepdim=True)
            if not self.honest:
                scores = scores - scores.logsumexp(-2, keepdim=True)
        return scores.exp().masked_fill(~past, 0.0) @ x


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Sorted(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
