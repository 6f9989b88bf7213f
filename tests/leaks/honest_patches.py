import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "overlapping patches of the context attend to each other in both directions (PatchTST)"
CONTEXT, HORIZON = 14, 5


class Patched(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.out = nn.Linear(48, HORIZON)

    def forward(self, values):
        patches = values[:, :CONTEXT].unfold(1, 4, 2)
        return self.out(self.mix(self.embed(patches)).flatten(1))


def build():
    moment = torch.arange(CONTEXT + HORIZON)[None]
    needed = torch.full((1, HORIZON), CONTEXT - 1)
    return Patched(), torch.randn(2, CONTEXT + HORIZON), clock({"input": moment}, needed)
