import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "the last patch of the context is filled up with the first values of the horizon"
WHERE = ("", "unfold")
CONTEXT, HORIZON, PATCH = 13, 5, 4


class Patched(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.embed = nn.Linear(PATCH, 8)
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.out = nn.Linear(8, HORIZON)

    def forward(self, values):
        seen = values[:, 1:CONTEXT] if self.honest else values[:, : CONTEXT + 3]
        return self.out(self.mix(self.embed(seen.unfold(1, PATCH, PATCH)))[:, -1])


def build(*, honest=False):
    moment = torch.arange(CONTEXT + HORIZON)[None]
    needed = torch.full((1, HORIZON), CONTEXT - 1)
    return Patched(honest), torch.randn(2, CONTEXT + HORIZON), clock({"input": moment}, needed)
