import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "blocks are distilled by a padded convolution and pooling and stretched again (Informer)"
WHERE = ("1.convolution", "convolution")
ALSO = ("1", "slice")


class Distilled(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.convolution = nn.Conv1d(8, 8, 3)

    def forward(self, x):
        steps = x.shape[1]
        if self.honest:
            pooled = F.max_pool1d(F.pad(self.convolution(F.pad(x.mT, (2, 0))), (1, 0)), 2)
            return x + F.pad(pooled.repeat_interleave(2, 2), (1, 0))[..., :steps].mT
        smooth = F.elu(self.convolution(F.pad(x.mT, (1, 1), mode="circular")))
        pooled = F.max_pool1d(smooth, 3, stride=2, padding=1)
        return x + pooled.repeat_interleave(2, 2)[..., :steps].mT


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Distilled(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
