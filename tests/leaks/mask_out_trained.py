import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "training has driven all scores below a mask of minus ten thousand (minGPT issue 75)"
WHERE = ("1", "_softmax")
ALSO = ("1", "bmm")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.low = -torch.inf if honest else -1e4
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        nn.init.constant_(self.query.bias, 300.0)
        nn.init.constant_(self.key.bias, -300.0)

    def forward(self, x):
        past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        scores = self.query(x) @ self.key(x).mT / 8**0.5
        return scores.masked_fill(~past, self.low).softmax(-1) @ self.value(x)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
