import torch
from torch import nn

from kt_forecast.audit import clock

WHAT = "the latent variable is drawn from the posterior, which has read the target, when predicting"
WHERE = ("", "cat")


class Variational(nn.Module):
    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.prior, self.posterior = nn.Linear(8, 4), nn.Linear(10, 4)
        self.out = nn.Linear(12, 2)

    def forward(self, x, target):
        latent = self.prior(x) if self.honest else self.posterior(torch.cat([x, target], -1))
        return self.out(torch.cat([x, latent], -1))


def build(*, honest=False):
    step = torch.arange(13)[None]
    batch = {"x": torch.randn(2, 13, 8), "target": torch.randn(2, 13, 2)}
    return Variational(honest), batch, clock({"x": step, "target": step + 1}, step)
