import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "calendar and prices of the horizon are known in advance and used (TFT)"
CONTEXT, HORIZON = 13, 5


class Fusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.past, self.ahead = nn.LSTM(3, 8, batch_first=True), nn.LSTM(2, 8, batch_first=True)
        self.out = nn.Linear(8, 1)

    def forward(self, values, known):
        seen = torch.cat([values[:, :CONTEXT, None], known[:, :CONTEXT]], -1)
        _, state = self.past(seen)
        return self.out(self.ahead(known[:, CONTEXT:].flip(1), state)[0])[..., 0]


def build():
    moment = torch.arange(CONTEXT + HORIZON)[None]
    batch = {
        "values": torch.randn(2, CONTEXT + HORIZON),
        "known": torch.randn(2, CONTEXT + HORIZON, 2),
    }
    needed = torch.full((1, HORIZON), CONTEXT - 1)
    return Fusion(), batch, clock({"values": moment}, needed)
