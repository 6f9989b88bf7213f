"""Step-wise networks."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them, applied to every step alone.

    Args:
        width: numbers in a step's vector.
        inner: numbers between the two maps.
        dropout: probability of dropping a number of the result.
    """

    def __init__(self, width: int, inner: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Return the change to add to each step."""
        return self.dropout(self.down(F.gelu(self.up(x), approximate="tanh")))
