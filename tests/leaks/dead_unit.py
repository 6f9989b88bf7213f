import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import causal

WHAT = "a unit that reads the mean of the sequence fires only at values the sample never has"
WHERE = ("1", "mean")
NEEDS = "dependency"


class Silent(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.threshold = nn.Buffer(torch.tensor(1e5))

    def forward(self, x):
        mean = x[:, :1] if self.honest else x.mean(1, keepdim=True)
        return x + F.relu(mean - self.threshold)


def build(*, honest=False):
    model = nn.Sequential(nn.Linear(8, 8), Silent(honest), nn.Linear(8, 3))
    return model, torch.randn(2, 13, 8), causal()
