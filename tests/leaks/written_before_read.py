import torch
from torch import nn

from kt_forecast.audit import kt

WHAT = "a memory network writes the answer before it reads the prediction (DKVMN)"
WHERE = ("", "bmm")
ALSO = ("", "cat")


class Memory(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.key, self.value = nn.Embedding(5, 4), nn.Embedding(10, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, question, response):
        weight = self.key(question).softmax(-1)
        written = self.value(question + 5 * response)
        memory = torch.zeros(len(question), 4, 8)
        read = []
        for t in range(question.shape[1]):
            change = weight[:, t, :, None] * written[:, t, None]
            after = 0.9 * memory + change
            read.append(weight[:, t, None] @ (memory if self.honest else after))
            memory = after
        return self.out(torch.cat(read, 1))[..., 0]


def build(*, honest=False):
    batch = {"question": torch.randint(0, 5, (2, 13)), "response": torch.randint(0, 2, (2, 13))}
    return Memory(honest), batch, kt()
