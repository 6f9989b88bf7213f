import torch
from torch import nn

from kt_forecast.audit import kt

WHAT = "a question counts how often it will be asked in all, not how often it was"
WHERE = ("", "sum")


class Counting(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.asked = nn.Embedding(5, 8)
        self.out = nn.Linear(9, 1)

    def forward(self, question, response):
        same = (question[:, :, None] == question[:, None]).float()
        attempts = (same.tril() if self.honest else same).sum(-1, keepdim=True)
        return self.out(torch.cat([self.asked(question), attempts], -1))[..., 0]


def build(*, honest=False):
    batch = {"question": torch.randint(0, 5, (2, 13)), "response": torch.randint(0, 2, (2, 13))}
    return Counting(honest), batch, kt()
