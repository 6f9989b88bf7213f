import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a step is computed only if it is among the largest of the sequence (mixture of depths)"
WHERE = ("", "topk")


class Routed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.score = nn.Linear(8, 1)
        self.work = nn.Linear(8, 8)

    def forward(self, x):
        score = self.score(x)[..., 0]
        if self.honest:
            chosen = score > 0
        else:
            top = score.topk(x.shape[1] // 2, dim=1).indices
            chosen = torch.zeros_like(score, dtype=torch.bool).scatter(1, top, value=True)
        return x + self.work(x) * chosen[..., None]


def build(*, honest=False):
    return Routed(honest), torch.randn(2, 12, 8), causal()
