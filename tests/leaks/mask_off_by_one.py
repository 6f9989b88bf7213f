import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "the causal mask leaves one step ahead open"
WHERE = ("1", "_softmax")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.open = 0 if honest else 1
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(self.open)
        scores = self.query(x) @ self.key(x).mT / 8**0.5
        return scores.masked_fill(~past, -torch.inf).softmax(-1) @ self.value(x)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
