import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "the slots the decoder is to fill hold the targets instead of zeros"
WHERE = ("", "cat")
CONTEXT, HORIZON = 13, 5


class Forecaster(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.embed, self.out = nn.Linear(1, 8), nn.Linear(8, 1)
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, past, future):
        slots = torch.zeros_like(future) if self.honest else future
        tokens = self.embed(torch.cat([past[:, -4:], slots], 1)[..., None])
        mixed = self.mix(tokens, tokens, tokens, need_weights=False)[0]
        return self.out(mixed)[:, -HORIZON:, 0]


def build(*, honest=False):
    batch = {"past": torch.randn(2, CONTEXT), "future": torch.randn(2, HORIZON)}
    moment = torch.arange(CONTEXT + HORIZON)[None]
    known = {"past": moment[:, :CONTEXT], "future": moment[:, CONTEXT:]}
    return Forecaster(honest), batch, clock(known, torch.full((1, HORIZON), CONTEXT - 1))
