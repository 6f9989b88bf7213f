import torch
from torch import nn

from kt_forecast.audit import kt

WHAT = "the query of a question may attend to the value of its own interaction (SAKT off by one)"
WHERE = ("", "_softmax")
ALSO = ("", "mul")


class Sakt(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.last = -1 if honest else 0
        self.asked, self.done = nn.Embedding(5, 8), nn.Embedding(10, 8)
        self.out = nn.Linear(16, 1)

    def forward(self, question, response):
        steps = question.shape[1]
        query, value = self.asked(question), self.done(question + 5 * response)
        visible = torch.ones(steps, steps, dtype=torch.bool).tril(self.last)
        scores = (query @ value.mT).masked_fill(~visible, -torch.inf)
        weights = scores.softmax(-1).masked_fill(~visible, 0.0)
        return self.out(torch.cat([weights @ value, query], -1))[..., 0]


def build(*, honest=False):
    batch = {"question": torch.randint(0, 5, (2, 13)), "response": torch.randint(0, 2, (2, 13))}
    return Sakt(honest), batch, kt()
