import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "a recurrent state is not reset where the next packed document begins"
WHERE = ("memory", None)


class Packed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.memory = nn.GRU(8, 8, batch_first=True)

    def forward(self, x):
        if not self.honest:
            return self.memory(x)[0]
        return torch.cat([self.memory(x[:, :6])[0], self.memory(x[:, 6:])[0]], 1)


def build(*, honest=False):
    step = torch.arange(13)[None]
    late = step.masked_fill(step < 6, 99)
    return Packed(honest), torch.randn(2, 13, 8), clock({"input": late}, late)
