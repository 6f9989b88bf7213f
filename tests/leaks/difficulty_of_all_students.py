import torch
from torch import nn

from kt_forecast.audit import kt

WHAT = "how hard a question is comes from all responses of the batch, the student's own among them"
WHERE = ("", "scatter_add")


class Rasch(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.register_buffer("known", torch.rand(5))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, question, response):
        share = self.known
        if not self.honest:
            asked = question.flatten()
            right = torch.zeros(5).scatter_add(0, asked, response.flatten().float())
            share = right / torch.zeros(5).scatter_add(0, asked, torch.ones(len(asked))).clamp(
                min=1
            )
        return self.scale * share[question]


def build(*, honest=False):
    batch = {"question": torch.randint(0, 5, (3, 13)), "response": torch.randint(0, 2, (3, 13))}
    return Rasch(honest), batch, kt()
