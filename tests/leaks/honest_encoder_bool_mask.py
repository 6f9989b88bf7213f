import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "torch's own transformer encoder with a boolean mask, normalised first, and dropout"


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return self.layers(x, mask=future)


def build():
    return Encoder(), torch.randn(2, 13, 8), causal()
