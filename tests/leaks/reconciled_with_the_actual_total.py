import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "forecasts of the parts are made to add up to the total that came true"
WHERE = ("", "sub")
ALSO = ("", "sum")
CONTEXT, HORIZON = 13, 5


class Reconciled(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.part, self.total = nn.Linear(CONTEXT, HORIZON), nn.Linear(CONTEXT, HORIZON)

    def forward(self, values):
        part = self.part(values[..., :CONTEXT])
        whole = values.sum(1)
        total = self.total(whole[:, :CONTEXT]) if self.honest else whole[:, CONTEXT:]
        return part + (total - part.sum(1))[:, None] / part.shape[1]


def build(*, honest=False):
    moment = torch.arange(CONTEXT + HORIZON).expand(1, 3, -1)
    needed = torch.full((1, 3, HORIZON), CONTEXT - 1)
    values = torch.randn(2, 3, CONTEXT + HORIZON)
    return Reconciled(honest), values, clock({"input": moment}, needed)
