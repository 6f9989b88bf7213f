import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "documents packed into one row attend to the documents before them"
WHERE = ("", "_softmax")
BEST = "conditional"


class Packed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.mix = nn.Linear(8, 24)

    def forward(self, x, document):
        visible = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        if self.honest:
            visible = visible & (document[:, :, None] == document[:, None])
        query, key, value = self.mix(x).chunk(3, -1)
        scores = query @ key.mT / 8**0.5
        return scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value


def build(*, honest=False):
    step = torch.arange(13)[None]
    first = step < 6
    batch = {"x": torch.randn(2, 13, 8), "document": (~first).long().expand(2, -1)}
    second_document_only = clock({"x": step.masked_fill(first, 99)}, step.masked_fill(first, 99))
    return Packed(honest), batch, second_document_only
