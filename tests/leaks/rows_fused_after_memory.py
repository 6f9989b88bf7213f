import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import kt

WHAT = "the states of a question's concept rows are averaged, and later rows have seen the answer"
WHERE = ("", "mean")
ALSO = ("", "mul")


class Fused(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.done, self.asked = nn.Embedding(10, 8), nn.Embedding(5, 8)
        self.memory = nn.GRU(8, 8, batch_first=True)
        self.out = nn.Linear(8, 1)

    def forward(self, question, response):
        done = F.pad(self.done(question + 5 * response), (0, 0, 1, 0))[:, :-1]
        rows = self.memory(done)[0].unflatten(1, (-1, 2))
        fused = rows[:, :, 0] if self.honest else rows.mean(2)
        return self.out(fused.repeat_interleave(2, 1) + self.asked(question))[..., 0]


def build(*, honest=False):
    question = torch.randint(0, 5, (2, 6)).repeat_interleave(2, 1)
    response = torch.randint(0, 2, (2, 6)).repeat_interleave(2, 1)
    event = (torch.arange(12) // 2).expand(2, -1)
    return Fused(honest), {"question": question, "response": response}, kt(event)
