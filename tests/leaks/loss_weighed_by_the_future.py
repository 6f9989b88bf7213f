import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import clock

WHAT = "a step's loss is weighed by the share of its class in the whole sequence"
WHERE = ("", "mean")
ALSO = ("", "mul")


class Loss(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.out = nn.Linear(8, 1)

    def forward(self, x, target):
        count = torch.arange(1, target.shape[1] + 1)
        share = target.cumsum(1) / count if self.honest else target.mean(1, keepdim=True)
        loss = F.binary_cross_entropy_with_logits(self.out(x)[..., 0], target, reduction="none")
        return loss * (1.5 - share)


def build(*, honest=False):
    step = torch.arange(13)[None]
    target = torch.randint(0, 2, (2, 13)).float()
    known = {"x": step, "target": step}
    return Loss(honest), {"x": torch.randn(2, 13, 8), "target": target}, clock(known, step)
