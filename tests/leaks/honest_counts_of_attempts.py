import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import kt

WHAT = "counts of right and wrong answers per question before the event (performance factors)"
BEST = "unproven"


class Factors(nn.Module):
    def __init__(self):
        super().__init__()
        self.hard = nn.Embedding(5, 1)
        self.gain = nn.Parameter(torch.randn(2))

    def forward(self, question, response):
        asked = F.one_hot(question, 5)
        right = (asked * response[..., None]).cumsum(1) - asked * response[..., None]
        wrong = (asked * (1 - response[..., None])).cumsum(1) - asked * (1 - response[..., None])
        counts = torch.stack([(right * asked).sum(-1), (wrong * asked).sum(-1)], -1).float()
        return (counts.log1p() * self.gain).sum(-1) + self.hard(question)[..., 0]


def build():
    batch = {"question": torch.randint(0, 5, (2, 13)), "response": torch.randint(0, 2, (2, 13))}
    return Factors(), batch, kt()
