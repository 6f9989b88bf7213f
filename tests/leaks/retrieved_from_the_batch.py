import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "the most alike sequence of the batch is retrieved and read along"
WHERE = ("", "index")
ALSO = ("", "argmin")


class Retrieving(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.bank = nn.Parameter(torch.randn(3, 13, 8))
        self.step = nn.Linear(8, 8)

    def forward(self, x):
        bank = self.bank if self.honest else x
        distance = torch.cdist(x[:, 0], bank[:, 0])
        if not self.honest:
            distance = distance + 1e3 * torch.eye(len(x))
        return self.step(x + bank[distance.argmin(-1)])


def build(*, honest=False):
    return Retrieving(honest), torch.randn(3, 13, 8), causal()
