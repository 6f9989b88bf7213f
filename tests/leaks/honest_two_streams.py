import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import kt

WHAT = "queries know the question, keys and values the answered past, strictly before the event"
BEST = "conditional"


class TwoStreams(nn.Module):
    def __init__(self):
        super().__init__()
        self.asked, self.done = nn.Embedding(5, 8), nn.Embedding(10, 8)
        self.none = nn.Parameter(torch.randn(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 1)

    def forward(self, question, response, event):
        query = self.asked(question)
        done = self.done(question + 5 * response)
        memory = torch.cat([self.none.expand(len(done), -1, -1), done], 1)
        hide = F.pad(event[0] >= event[0, :, None], (1, 0), value=False)
        mixed, _ = self.attention(query, memory, memory, attn_mask=hide)
        return self.out(mixed + query)[..., 0]


def build():
    event = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7]).expand(2, -1)
    batch = {
        "question": torch.randint(0, 5, (2, 12)),
        "response": torch.randint(0, 2, (2, 12)),
        "event": event,
    }
    return TwoStreams(), batch, kt(event)
