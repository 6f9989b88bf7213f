import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import kt

WHAT = "the decoder of responses starts with the response it is asked for (SAINT)"
WHERE = ("answered", "embedding")


class Saint(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.asked, self.answered = nn.Embedding(5, 8), nn.Embedding(3, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.out = nn.Linear(8, 1)

    def forward(self, question, response):
        if self.honest:
            response = F.pad(response, (1, 0), value=2)[:, :-1]
        future = torch.ones(question.shape[1], question.shape[1], dtype=torch.bool).triu(1)
        asked = self.asked(question)
        memory = self.encoder(asked, src_mask=future)
        target = asked + self.answered(response)
        return self.out(self.decoder(target, memory, future, future))[..., 0]


def build(*, honest=False):
    batch = {"question": torch.randint(0, 5, (2, 13)), "response": torch.randint(0, 2, (2, 13))}
    return Saint(honest), batch, kt()
