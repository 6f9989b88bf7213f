"""Convolution over time that looks back only, and keeps what it still needs."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kt_forecast.nn.rates import trailing
from kt_forecast.nn.streams import Span


class CausalConvolution(nn.Module):
    """Each channel's weighted sum of its latest steps.

    Args:
        channels: numbers in a step's vector.
        kernel: steps that are read, the own one included.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(kernel, channels).uniform_(-1, 1) / kernel**0.5)
        self.bias = nn.Parameter(torch.zeros(channels))

    def init_state(self, batch: int) -> Float[Tensor, "batch kept channel"]:
        """Return the steps before the first one: zeros."""
        kernel, channels = self.weight.shape
        return self.weight.new_zeros(batch, kernel - 1, channels)

    def forward(
        self,
        x: Float[Tensor, "batch time channel"],
        kept: Float[Tensor, "batch kept channel"],
        span: Span,
    ) -> tuple[Float[Tensor, "batch time channel"], Float[Tensor, "batch kept channel"]]:
        """Return the sums, and the steps that the next segment reads too."""
        joined = torch.cat([kept.to(x.dtype), x], 1)
        steps = x.shape[1]
        y: Tensor = self.bias
        for back, weight in enumerate(self.weight.unbind(0)):
            y = y + weight * joined[:, back : back + steps]
        return y, trailing(joined, kept.shape[1], span).to(kept.dtype)
