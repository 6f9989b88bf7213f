import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "torch's own transformer encoder with an additive mask"


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.layers(x, mask=mask)


def build():
    return Encoder(), torch.randn(2, 13, 8), causal()
