import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a mask of what to hide is given where a mask of what to keep is meant"
WHERE = ("1", "_safe_softmax")


class Attention(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        hide = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        query, key, value = self.mix(x).chunk(3, -1)
        keep = ~hide if self.honest else hide
        return F.scaled_dot_product_attention(query, key, value, attn_mask=keep).nan_to_num()


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Attention(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
