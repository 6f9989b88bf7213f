import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import kt

WHAT = "questions answered together on one page see each other's answers"
WHERE = ("", "index")
PAGE = 3


class Paged(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.shift = PAGE if honest else 1
        self.asked, self.done = nn.Embedding(5, 8), nn.Embedding(10, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, question, response):
        steps = question.shape[1]
        done = self.done(question + 5 * response).cumsum(1)
        page = torch.arange(steps) // self.shift * self.shift
        before = F.pad(done, (0, 0, 1, 0))[:, page]
        return self.out(before + self.asked(question))[..., 0]


def build(*, honest=False):
    batch = {"question": torch.randint(0, 5, (2, 12)), "response": torch.randint(0, 2, (2, 12))}
    return Paged(honest), batch, kt((torch.arange(12) // PAGE).expand(2, -1))
