import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import clock

WHAT = "an encoder-decoder whose cross attention is masked like its self attention"


class EncoderDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.whole = nn.Transformer(8, 2, 1, 1, 16, 0.1, batch_first=True)

    def forward(self, source, target):
        future = torch.ones(source.shape[1], source.shape[1], dtype=torch.bool).triu(1)
        before = F.pad(target, (0, 0, 1, 0))[:, :-1]
        return self.whole(source, before, future, future, future)


def build():
    step = torch.arange(13)[None]
    batch = {"source": torch.randn(2, 13, 8), "target": torch.randn(2, 13, 8)}
    return EncoderDecoder(), batch, clock({"source": step, "target": step + 1}, step)
