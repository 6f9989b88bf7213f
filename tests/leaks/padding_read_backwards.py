import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "the backward direction of a summary starts in the padding"
WHERE = ("memory", None)
BEST = "conditional"


class Summary(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.memory = nn.GRU(8, 8, batch_first=True, bidirectional=True)

    def forward(self, x, lengths):
        if not self.honest:
            return self.memory(x)[1].transpose(0, 1)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.memory(packed)[1].transpose(0, 1)


def build(*, honest=False):
    lengths = torch.tensor([13, 8])
    real = torch.arange(13) < lengths[:, None]
    padding = clock({"x": torch.where(real, 0, 99)}, torch.zeros(1, dtype=torch.long))
    return Summary(honest), {"x": torch.randn(2, 13, 8), "lengths": lengths}, padding
