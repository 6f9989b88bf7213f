import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import clock

WHAT = "a label is softened with its neighbours, the later one included"
WHERE = ("", "avg_pool2d")


class Loss(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.pad = (2, 0) if honest else (1, 1)
        self.out = nn.Linear(8, 1)

    def forward(self, x, target):
        soft = F.avg_pool1d(F.pad(target, self.pad), 3, stride=1)
        return F.binary_cross_entropy_with_logits(self.out(x)[..., 0], soft, reduction="none")


def build(*, honest=False):
    step = torch.arange(13)[None]
    target = torch.randint(0, 2, (2, 13)).float()
    known = {"x": step, "target": step}
    return Loss(honest), {"x": torch.randn(2, 13, 8), "target": target}, clock(known, step)
