import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "the head picks the next step's interaction where only the next question may be picked"
WHERE = ("", "add")
ALSO = ("", "slice")
AT = "wanted[:, 1:]"


class Dkt(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.done, self.next = nn.Embedding(10, 8), nn.Embedding(10, 8)
        self.memory = nn.LSTM(8, 8, batch_first=True)

    def forward(self, question, response):
        states, _ = self.memory(self.done(question + 5 * response))
        wanted = question if self.honest else question + 5 * response
        return (states[:, :-1] * self.next(wanted[:, 1:])).sum(-1)


def build(*, honest=False):
    batch = {"question": torch.randint(0, 5, (2, 13)), "response": torch.randint(0, 2, (2, 13))}
    known = 2 * torch.arange(13)[None]
    predicts_the_next = clock({"question": known, "response": known + 1}, known[:, 1:])
    return Dkt(honest), batch, predicts_the_next
