"""The linear map that the linear networks are made of."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from kt_forecast.sequences.series import WindowShape


class LinearAhead(nn.Module):
    """Maps a context to the steps ahead.

    Args:
        shape: what the windows hold.
        individual: give each channel a map of its own; else all share one.
        even: begin with the mean of the context for every step; else at random.
    """

    def __init__(self, shape: WindowShape, *, individual: bool, even: bool = False) -> None:
        super().__init__()
        self.individual = individual
        self.ahead = (shape.horizon, shape.outputs)
        maps, length = (shape.channels if individual else 1), shape.context
        numbers = shape.horizon * shape.outputs
        bound = 1.0 / math.sqrt(length)
        self.weight = nn.Parameter(torch.empty(maps, numbers, length).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(maps, numbers).uniform_(-bound, bound))
        if even:
            nn.init.constant_(self.weight, 1.0 / length)

    def forward(
        self, x: Float[Tensor, "batch channels context"]
    ) -> Float[Tensor, "batch channels horizon outputs"]:
        """Return the steps ahead of each channel."""
        if self.individual:
            y = torch.einsum("bcl,col->bco", x, self.weight) + self.bias
        else:
            y = F.linear(x, self.weight[0], self.bias[0])
        return y.unflatten(-1, self.ahead)
