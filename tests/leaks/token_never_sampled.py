import torch
from torch import nn

from kt_forecast.audit import causal

WHAT = "an end token anywhere ends the context of all steps, and the sample holds none"
WHERE = ("", "any")
ALSO = ("", "mul")
NEEDS = "dependency"
END = 7


class Ended(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.embed = nn.Embedding(8, 8)
        self.memory = nn.GRU(8, 8, batch_first=True)

    def forward(self, x):
        ended = x == END
        over = ended.cummax(1).values if self.honest else ended.any(1, keepdim=True)
        return self.memory(self.embed(x))[0] * ~over[..., None]


def build(*, honest=False):
    return Ended(honest), torch.randint(0, END, (2, 13)), causal()
