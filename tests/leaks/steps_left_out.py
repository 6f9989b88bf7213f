import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "uneventful steps are left out, the rest moves up, and the gaps close from behind"
WHERE = ("1", "gather")
ALSO = ("1", "sort")
AT = "argsort"


class Compacted(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.step = nn.Linear(8, 8)

    def forward(self, x):
        eventful = x[..., 0] > 0
        if self.honest:
            return self.step(x * eventful[..., None])
        order = (~eventful).to(torch.int8).argsort(dim=1, stable=True)
        return self.step(x.gather(1, order[..., None].expand_as(x)))


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Compacted(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
