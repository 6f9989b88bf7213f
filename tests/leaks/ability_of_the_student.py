import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import kt

WHAT = "a student is described by the share of correct responses of the whole sequence"
WHERE = ("", "mean")


class Described(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.asked = nn.Embedding(5, 1)

    def forward(self, question, response):
        right = response.float()
        if self.honest:
            before = F.pad(right, (1, 0))[:, :-1].cumsum(1)
            ability = before / torch.arange(1, right.shape[1] + 1)
        else:
            ability = right.mean(1, keepdim=True)
        return ability + self.asked(question)[..., 0]


def build(*, honest=False):
    batch = {"question": torch.randint(0, 5, (2, 13)), "response": torch.randint(0, 2, (2, 13))}
    return Described(honest), batch, kt()
