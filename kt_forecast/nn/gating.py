"""Gates in the place of residual sums (Parisotto et al. 2020, GTrXL)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Kind = Literal["gru", "output", "highway", "input", "sigmoid_tanh", "sum"]
MAPS: dict[Kind, tuple[int, int]] = {
    "gru": (2, 3),
    "output": (1, 0),
    "highway": (1, 0),
    "input": (1, 0),
    "sigmoid_tanh": (0, 2),
    "sum": (0, 0),
}
"""Linear maps of the stream and of what is added, for each kind of gate."""


class Gate(nn.Module):
    """Joins the stream with what a layer made of it; nearly the stream alone at first.

    Args:
        width: numbers in a step's vector.
        kind: ``gru``: a gated recurrent unit whose state is the stream; ``output``, ``highway``,
            ``input``, ``sigmoid_tanh``: the paper's simpler ones; ``sum``: none.
        shut: how far the gate is shut at first.
    """

    def __init__(self, width: int, kind: Kind, *, shut: float) -> None:
        super().__init__()
        self.kind = kind
        of_stream, of_made = MAPS[kind]
        self.stream = _maps(width, of_stream)
        self.made = _maps(width, of_made)
        self.candidate = _maps(width, 1 if kind == "gru" else 0)
        self.shut: Tensor | float = 0.0
        if kind not in {"input", "sum"}:
            self.shut = nn.Parameter(torch.full((width,), shut))

    def forward(
        self, x: Float[Tensor, "*batch width"], made: Float[Tensor, "*batch width"]
    ) -> Float[Tensor, "*batch width"]:
        """Return the stream ``x`` after what was ``made`` of it has entered."""
        of_stream, of_made = self.stream(x), self.made(made)
        if self.kind == "gru":
            of_reset, of_update, inner = of_made.chunk(3, dim=-1)
            reset, update = (of_stream + torch.cat([of_reset, of_update], -1)).chunk(2, dim=-1)
            opened = (update - self.shut).sigmoid()
            new = (inner + self.candidate(reset.sigmoid() * x)).tanh()
            return (1.0 - opened) * x + opened * new
        if self.kind == "output":
            return x + (of_stream - self.shut).sigmoid() * made
        if self.kind == "highway":
            kept = (of_stream + self.shut).sigmoid()
            return kept * x + (1.0 - kept) * made
        if self.kind == "input":
            return of_stream.sigmoid() * x + made
        if self.kind == "sigmoid_tanh":
            gate, value = of_made.chunk(2, dim=-1)
            return x + (gate - self.shut).sigmoid() * value.tanh()
        return x + made


def _maps(width: int, count: int) -> nn.Module:
    """Return so many linear maps side by side; what passes all through for none."""
    return nn.Linear(width, count * width, bias=False) if count else nn.Identity()
