import numpy as np
import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "attention decays with the attention spent since, a sum over the past of each query (AKT)"


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 24)
        self.rate = nn.Parameter(torch.tensor(-0.5))

    def forward(self, x):
        steps = x.shape[1]
        past = torch.from_numpy(np.tril(np.ones((steps, steps), dtype=bool)))
        query, key, value = self.mix(x).chunk(3, -1)
        scores = query @ key.mT / 8**0.5
        with torch.no_grad():
            spent = scores.masked_fill(~past, -1e32).softmax(-1).masked_fill(~past, 0.0)
            left = spent.sum(-1, keepdim=True) - spent.cumsum(-1)
        step = torch.arange(steps)
        distance = (left * (step[:, None] - step).abs()).clamp(min=0.0).sqrt()
        decayed = scores * (self.rate * distance).exp().clamp(1e-5, 1e5)
        return decayed.masked_fill(~past, -1e32).softmax(-1).masked_fill(~past, 0.0) @ value


def build():
    return Attention(), torch.randn(2, 13, 8), causal()
