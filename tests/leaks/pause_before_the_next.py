import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import kt

WHAT = "the time to the next question is taken for the time since the last"
WHERE = ("", "sub")
ALSO = ("", "slice")
AT = "pause = F.pad(seconds, (0, 1))"


class Forgetting(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.asked = nn.Embedding(5, 8)
        self.out = nn.Linear(9, 1)

    def forward(self, question, seconds):
        if self.honest:
            pause = seconds - F.pad(seconds, (1, 0))[:, :-1]
        else:
            pause = F.pad(seconds, (0, 1))[:, 1:] - seconds
        return self.out(torch.cat([self.asked(question), pause[..., None]], -1))[..., 0]


def build(*, honest=False):
    seconds = torch.rand(2, 13).cumsum(1)
    return Forgetting(honest), {"question": torch.randint(0, 5, (2, 13)), "seconds": seconds}, kt()
