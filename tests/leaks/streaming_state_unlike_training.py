import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "decoding step by step drops what training remembers, so one of them is not the model"
WHERE = None
NEEDS = "streaming"


class Stepped(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.memory = nn.GRU(8, 8, batch_first=True)

    def forward(self, x):
        return self.memory(x)[0]

    def step(self, x, state=None):
        output, state = self.memory(x[:, None], state)
        return output[:, 0], state if self.honest else 0.9 * state


def build(*, honest=False):
    return Stepped(honest), torch.randn(2, 13, 8), causal()
