import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import clock

WHAT = "only the hardest steps of the sequence are trained on, chosen with all labels"
WHERE = ("", "topk")


class Loss(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.out = nn.Linear(8, 1)

    def forward(self, x, target):
        loss = F.binary_cross_entropy_with_logits(self.out(x)[..., 0], target, reduction="none")
        if self.honest:
            return loss * (loss > 0.6)
        hardest = loss.topk(5, dim=1).indices
        return loss * torch.zeros_like(loss).scatter(1, hardest, value=1.0)


def build(*, honest=False):
    step = torch.arange(13)[None]
    target = torch.randint(0, 2, (2, 13)).float()
    known = {"x": step, "target": step}
    return Loss(honest), {"x": torch.randn(2, 13, 8), "target": target}, clock(known, step)
