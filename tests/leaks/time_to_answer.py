import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import kt

WHAT = "the seconds a student took for an answer are given with the question"
WHERE = ("", "cat")


class Timed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.asked = nn.Embedding(5, 8)
        self.memory = nn.GRU(9, 8, batch_first=True)
        self.out = nn.Linear(8, 1)

    def forward(self, question, took):
        if self.honest:
            took = F.pad(took, (1, 0))[:, :-1]
        given = torch.cat([self.asked(question), took[..., None]], -1)
        return self.out(self.memory(given)[0])[..., 0]


def build(*, honest=False):
    batch = {"question": torch.randint(0, 5, (2, 13)), "took": torch.rand(2, 13)}
    return Timed(honest), batch, kt(answered=("took",))
