import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "the sequence is sorted, smoothed and put back in order"
WHERE = ("1", "sort")


class Smoothed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        order = torch.arange(x.shape[1])[:, None].expand_as(x) if self.honest else x.argsort(1)
        smooth = x.gather(1, order)
        smooth = smooth + F.pad(smooth, (0, 0, 1, 0))[:, :-1]
        return torch.zeros_like(x).scatter(1, order, smooth)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Smoothed(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
