import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import kt

WHAT = "deep knowledge tracing: state of the earlier interactions, read out at the next question"


class Dkt(nn.Module):
    def __init__(self):
        super().__init__()
        self.done = nn.Embedding(10, 8)
        self.memory = nn.LSTM(8, 8, batch_first=True)
        self.out = nn.Linear(8, 5)

    def forward(self, question, response):
        states, _ = self.memory(self.done(question + 5 * response))
        before = F.pad(states, (0, 0, 1, 0))[:, :-1]
        wanted = F.one_hot(question, 5)
        return (self.out(before).sigmoid() * wanted).sum(-1)


def build():
    batch = {"question": torch.randint(0, 5, (2, 13)), "response": torch.randint(0, 2, (2, 13))}
    return Dkt(), batch, kt()
