import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "the codes a step is rounded to are clusters of the sequence itself"
WHERE = ("1", "mean")
ALSO = ("1", "_cdist_forward")


class Quantised(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.codes = nn.Parameter(torch.randn(3, 8))

    def forward(self, x):
        codes = self.codes.expand(len(x), -1, -1)
        if not self.honest:
            near = F.one_hot(torch.cdist(x, codes).argmin(-1), 3).to(x)
            codes = (near[..., None] * x[:, :, None]).mean(1)
        nearest = torch.cdist(x, codes).argmin(-1)
        return codes.gather(1, nearest[..., None].expand_as(x))


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Quantised(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
