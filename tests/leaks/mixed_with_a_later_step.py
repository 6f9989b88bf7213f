import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "training mixes each step with a later one as augmentation"
WHERE = ("", "flip")


class Mixup(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.memory = nn.GRU(8, 8, batch_first=True)

    def forward(self, x):
        if self.training:
            before = F.pad(x, (0, 0, 4, 0))[:, : x.shape[1]]
            x = torch.lerp(x, before if self.honest else x.flip(1), 0.3)
        return self.memory(x)[0]


def build(*, honest=False):
    return Mixup(honest), torch.randn(2, 13, 8), causal()
