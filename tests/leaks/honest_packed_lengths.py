import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "padded rows are packed by their known lengths before a recurrent layer"
BEST = "conditional"


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory = nn.GRU(8, 8, batch_first=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        states, _ = self.memory(packed)
        return nn.utils.rnn.pad_packed_sequence(states, batch_first=True)[0]


def build():
    step = torch.arange(13)[None]
    batch = {"x": torch.randn(2, 13, 8), "lengths": torch.tensor([13, 8])}
    return Packed(), batch, clock({"x": step}, step)
