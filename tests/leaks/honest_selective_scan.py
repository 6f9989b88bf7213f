import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a state space whose step size depends on the input, looped over time in place"


class SelectiveScan(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate, self.write, self.read = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        rate, write, read = F.softplus(self.rate(x)), self.write(x), self.read(x)
        state = torch.zeros(len(x), 8)
        states = torch.empty_like(x)
        for t in range(x.shape[1]):
            state = (-rate[:, t]).exp() * state + rate[:, t] * write[:, t] * x[:, t]
            states[:, t] = state * read[:, t]
        return states


def build():
    return SelectiveScan(), torch.randn(2, 13, 8), causal()
