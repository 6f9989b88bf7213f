import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "a causal decoder attends to an encoder that has read the very sequence it predicts"
WHERE = ("encoder.self_attn", "_safe_softmax")


class EncoderDecoder(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True)

    def forward(self, x):
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        hide = future if self.honest else None
        memory = self.encoder(x, src_mask=hide)
        return self.decoder(x, memory, tgt_mask=future, memory_mask=hide)


def build(*, honest=False):
    return EncoderDecoder(honest), torch.randn(2, 13, 8), causal()
