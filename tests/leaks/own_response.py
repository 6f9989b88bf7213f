import torch
from torch import nn

from kt_forecast.audit import kt

WHAT = "the interaction of a step joins the prediction of that step"
WHERE = ("", "mul")


class Tracer(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.interaction = nn.Embedding(10, 8)
        self.asked = nn.Embedding(5, 8)
        self.memory = nn.LSTM(8, 8, batch_first=True)
        self.out = nn.Linear(16, 1)

    def forward(self, question, response):
        done = self.interaction(question + 5 * response)
        if self.honest:
            done = torch.cat([torch.zeros_like(done[:, :1]), done[:, :-1]], 1)
        state, _ = self.memory(done)
        return self.out(torch.cat([state, self.asked(question)], -1))[..., 0]


def build(*, honest=False):
    batch = {"question": torch.randint(0, 5, (2, 11)), "response": torch.randint(0, 2, (2, 11))}
    return Tracer(honest), batch, kt()
