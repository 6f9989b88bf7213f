import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "values are scaled by the median and quartiles of the whole sequence"
WHERE = ("1", "median")
ALSO = ("1", "sub")


class Scaled(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.known = 5 if honest else None

    def forward(self, x):
        late = x[:, self.known :] if self.known else x
        seen = x[:, : self.known]
        centre = seen.median(1, keepdim=True).values
        spread = (seen - centre).abs().median(1, keepdim=True).values + 0.1
        return (late - centre) / spread


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Scaled(honest), nn.Linear(8, 3))
    step = torch.arange(13)[None]
    return model, torch.randn(2, 13, 8), clock({"input": step}, step[:, 5:] if honest else step)
