import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a recurrent layer goes on from where the call before ended"
WHERE = None


class Streaming(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.memory = nn.GRU(8, 8, batch_first=True)
        self.state = None

    def forward(self, x):
        states, final = self.memory(x, None if self.honest else self.state)
        self.state = final.detach()
        return states


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Streaming(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
