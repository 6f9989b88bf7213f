"""Attention heads with rotary positions, and a window of the latest steps that they keep."""

from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from kt_forecast.nn.attend import Kernel, attend
from kt_forecast.nn.attention import Rotary, turned
from kt_forecast.nn.rates import trailing
from kt_forecast.nn.streams import Span

Kept = Float[Tensor, "batch _ both"]
"""Rotated keys and values of the steps before, side by side, oldest first."""
OfHeads = Float[Tensor, "batch head _ size"]


@dataclass(frozen=True)
class Packed(Span):
    """Where steps stand when rows hold several sequences from their beginning, one after another.

    Attributes:
        document: numbers of the sequences, which never fall along a row.
        place: of each step in its sequence.
    """

    document: Int[Tensor, "batch time"]
    place: Int[Tensor, "batch time"]

    @classmethod
    def of(cls, document: Int[Tensor, "batch time"]) -> Self:
        """Return the span of rows with these sequences."""
        batch, steps = document.shape
        none = torch.zeros(batch, dtype=torch.int64, device=document.device)
        step = torch.arange(steps, device=document.device)
        begins = F.pad(document[:, 1:] != document[:, :-1], (1, 0), value=True)
        place = step - torch.where(begins, step, 0).cummax(1).values
        return cls(none, none + steps, steps, 0, 0, whole=False, document=document, place=place)

    @property
    def position(self) -> Int[Tensor, "batch time"]:
        """Return each step's place in its sequence."""
        return self.place


class Heads(nn.Module):
    """Maps steps to queries, keys and values of heads, rotated to their positions, and back.

    Args:
        width: numbers in a step's vector.
        heads: must divide ``width`` into even sizes.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.rotary = Rotary(self.size)

    def mapped(
        self, x: Float[Tensor, "batch time width"], span: Span
    ) -> tuple[OfHeads, OfHeads, OfHeads]:
        """Return queries, keys and values, of one product and rotated at once."""
        if span.length == 1:
            # For a single step it would cost more to lay the weights side by side.
            made = torch.cat([self.query(x), self.key_value(x)], -1)
        else:
            weight = torch.cat([self.query.weight, self.key_value.weight])
            made = F.linear(x, weight, torch.cat([self.query.bias, self.key_value.bias]))
        heads = made.unflatten(-1, (3 * self.heads, self.size)).transpose(1, 2)
        both, value = heads.split([2 * self.heads, self.heads], 1)
        query, key = turned(both, self.rotary.angles(span.places, both.dtype)).chunk(2, 1)
        return query, key, value

    def beside(self, key: OfHeads, value: OfHeads) -> Kept:
        """Return keys and values side by side, to be kept."""
        return torch.cat([joined(key), joined(value)], -1)

    def asked(self, x: Float[Tensor, "batch time width"], span: Span) -> OfHeads:
        """Return queries."""
        return self.rotary(self.split(self.query(x)), span.places)

    def told(self, x: Float[Tensor, "batch time width"], span: Span) -> Kept:
        """Return keys and values, side by side."""
        key, value = self.key_value(x).chunk(2, -1)
        return torch.cat([joined(self.rotary(self.split(key), span.places)), value], -1)

    def halves(self, both: Kept) -> tuple[OfHeads, OfHeads]:
        """Return the keys and the values of what was kept and `told`."""
        key, value = both.chunk(2, -1)
        return self.split(key), self.split(value)

    def merged(self, y: OfHeads) -> Float[Tensor, "batch time width"]:
        """Return what the heads have read as one vector a step."""
        return self.out(joined(y))

    def kept(self, batch: int, slots: int) -> Kept:
        """Return room for so many steps."""
        return self.out.weight.new_zeros(batch, slots, 2 * self.heads * self.size)

    def split(self, x: Float[Tensor, "batch _ width"]) -> OfHeads:
        """Return each step's vector as one vector a head."""
        return x.unflatten(-1, (self.heads, self.size)).transpose(1, 2)


class WindowAttention(Heads):
    """Attention to the latest steps; see `kt_forecast.nn.stack.Mixing`.

    Args:
        width: numbers in a step's vector.
        heads: must divide ``width`` into even sizes.
        window: how many steps a step reads, itself included.
        dilation: distance between two of them.
        kernel: see `attend`.
    """

    def __init__(
        self, width: int, heads: int, *, window: int, dilation: int = 1, kernel: Kernel = "auto"
    ) -> None:
        super().__init__(width, heads)
        self.window, self.dilation, self.kernel = window, dilation, kernel

    def init_state(self, batch: int) -> Kept:
        """Return a window without steps."""
        return self.kept(batch, (self.window - 1) * self.dilation)

    def forward(
        self, x: Float[Tensor, "batch time width"], state: Kept, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], Kept]:
        """Return what each step read, and the window after the last step."""
        query, key, value = self.mapped(x, span)
        given: dict[str, Any] = {"dilation": self.dilation, "kernel": self.kernel}
        if isinstance(span, Packed):
            document = span.document
            y = attend(query, key, value, self.window, document=document, **given)
            return self.merged(y), state
        if span.ends:
            return self.merged(attend(query, key, value, self.window, **given)), state
        both, before = torch.cat([state, self.beside(key, value)], 1), None
        if not begins(span):
            (key, value), before = self.halves(both), span.before
        y = attend(query, key, value, self.window, before=before, **given)
        return self.merged(y), trailing(both, state.shape[1], span)


def begins(span: Span) -> bool:
    """Return whether all rows stand at their beginning, so that nothing was kept."""
    return span.high == 0 and (span.whole or not torch.compiler.is_exporting())


def joined(x: OfHeads) -> Float[Tensor, "batch _ width"]:
    """Return the heads' vectors of each step side by side."""
    return x.transpose(1, 2).flatten(-2)
