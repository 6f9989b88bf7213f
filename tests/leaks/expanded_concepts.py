import torch
from torch import nn

from kt_forecast.audit import kt

WHAT = "a question's concepts as rows: a later row sees the answer in an earlier"
WHERE = ("", "select")


class PerRow(nn.Module):
    """A causal tracer of rows: shifted by one row, which is right only if a row is an event."""

    def __init__(self, rows_a_question):
        super().__init__()
        self.shift = rows_a_question
        self.interaction = nn.Embedding(10, 8)
        self.memory = nn.GRU(8, 8, batch_first=True)
        self.asked = nn.Embedding(5, 8)
        self.out = nn.Linear(16, 1)

    def forward(self, question, response):
        done = self.interaction(question + 5 * response)
        steps = done.shape[1]
        seen = torch.zeros_like(done)
        for t in range(self.shift, steps):
            last = (t // self.shift) * self.shift - 1
            seen[:, t] = done[:, last]
        state, _ = self.memory(seen)
        return self.out(torch.cat([state, self.asked(question)], -1))[..., 0]


def build(*, honest=False):
    rows = torch.arange(12)
    question = torch.randint(0, 5, (2, 6)).repeat_interleave(2, 1)
    response = torch.randint(0, 2, (2, 6)).repeat_interleave(2, 1)
    event = (rows // 2).expand(2, -1)
    model = PerRow(rows_a_question=2 if honest else 1)
    return model, {"question": question, "response": response}, kt(event)
