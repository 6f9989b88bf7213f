import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import kt

WHAT = "whether a hint was used is known after the question, and is fed with it"
WHERE = ("", "cat")
ALSO = ("told", "addmm")
AT = "told = self.told(extras)"


class Hinted(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.asked = nn.Embedding(5, 8)
        self.told = nn.Linear(2, 4)
        self.memory = nn.LSTM(12, 8, batch_first=True)
        self.out = nn.Linear(8, 1)

    def forward(self, question, extras):
        told = self.told(extras)
        if self.honest:
            told = F.pad(told, (0, 0, 1, 0))[:, :-1]
        return self.out(self.memory(torch.cat([self.asked(question), told], -1))[0])[..., 0]


def build(*, honest=False):
    batch = {"question": torch.randint(0, 5, (2, 13)), "extras": torch.rand(2, 13, 2)}
    return Hinted(honest), batch, kt()
