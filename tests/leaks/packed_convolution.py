import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import clock

WHAT = "a convolution reaches over the border of packed documents (Lfm2)"
WHERE = ("convolution", "convolution")
BORDER = 6


class Packed(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.convolution = nn.Conv1d(8, 8, 3)

    def forward(self, x):
        documents = [x[:, :BORDER], x[:, BORDER:]] if self.honest else [x]
        done = [self.convolution(F.pad(part.mT, (2, 0))).mT for part in documents]
        return torch.cat(done, 1)


def build(*, honest=False):
    step = torch.arange(13)[None]
    second_document_only = step.masked_fill(step < BORDER, 99)
    contract = clock({"input": second_document_only}, second_document_only)
    return Packed(honest), torch.randn(2, 13, 8), contract
