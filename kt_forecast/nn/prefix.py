"""Causal attention in which every step also reads rows that belong to no step."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kt_forecast.nn.attention import Rotary, turned
from kt_forecast.nn.rates import trailing
from kt_forecast.nn.streams import Span, appended
from kt_forecast.nn.windowed import weighed

QUERY_CHUNK = 512
"""Queries attended at a time, so that the weights of all pairs of steps are never there at once."""

Kept = Float[Tensor, "batch _ both"]
"""Rotated keys and values of the steps before, side by side, oldest first."""


class PrefixAttention(nn.Module):
    """Multi-head attention over a few given rows and the steps up to each step.

    The rows have no position: a step's logits to them do not depend on where it stands, so that
    they are the same for the first step of a history and for the millionth.

    Args:
        width: numbers in a step's vector.
        heads: must divide ``width`` into even sizes.
        window: how many steps back a step reads, itself included; None for all.
    """

    def __init__(self, width: int, heads: int, *, window: int | None = None) -> None:
        super().__init__()
        self.heads, self.size, self.window = heads, width // heads, window
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.rotary = Rotary(self.size)

    def init_state(self, batch: int) -> Kept:
        """Return what is kept before the first step: nothing, or a window of zeros."""
        weight = self.out.weight
        slots = 0 if self.window is None else self.window - 1
        return weight.new_zeros(batch, slots, 2 * self.heads * self.size)

    def unplaced(
        self, rows: Float[Tensor, "some row width"], read: Float[Tensor, "some read width"]
    ) -> Float[Tensor, "some row width"]:
        """Return what ``rows`` read of all of ``read``, wherever it stands."""
        key, value = self._pair(self.key_value(read))
        return self._merged(
            F.scaled_dot_product_attention(self._split(self.query(rows)), key, value)
        )

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        rows: Float[Tensor, "some row width"],
        kept: Kept,
        span: Span,
    ) -> tuple[Float[Tensor, "batch time width"], Kept]:
        """Let each step read the rows and the steps up to itself.

        Args:
            x: steps.
            rows: what every step reads, the same in all sequences or one set for each.
            kept: what `init_state` or the call before gave.
            span: where the steps stand.

        Returns:
            What each step read, and what to keep.
        """
        query = self._split(self.query(x))
        key, value = self._pair(self.key_value(x))
        place = span.position[:1] if span.uniform else span.position
        angles = self.rotary.angles(place, query.dtype)
        new = torch.cat([self._joined(turned(key, angles)), self._joined(value)], -1)
        row_key, row_value = (
            t.expand(len(x), -1, -1, -1) for t in self._pair(self.key_value(rows))
        )
        to_rows = query @ row_key.transpose(-1, -2) * self.size**-0.5
        query = turned(query, angles)
        if self.window is None:
            kept = appended(kept[:, None], new[:, None], span)[:, 0]
            return self._merged(self._all(query, kept, to_rows, row_value, span)), kept
        both = torch.cat([kept, new], 1)
        if span.uniform and span.length == 1:
            seen = self._pair(both[:, -min(self.window, span.low + 1) :])
            read = _one(query, *seen, to_rows, row_value)
            return self._merged(read), both[:, 1:].clone()
        read = weighed(
            query, *self._pair(both), self.window, before=span.before, beside=(to_rows, row_value)
        )
        return self._merged(read), trailing(both, self.window - 1, span)

    def _all(
        self, query: Tensor, both: Tensor, to_rows: Tensor, row_value: Tensor, span: Span
    ) -> Tensor:
        """Read all steps, a chunk of queries at a time; slot i holds step i."""
        key, value = self._pair(both)
        value = torch.cat([row_value, value], 2)
        chunks = []
        parts = (query.split(QUERY_CHUNK, 2), to_rows.split(QUERY_CHUNK, 2))
        place = (span.position[:1] if span.uniform else span.position).split(QUERY_CHUNK, 1)
        for q, rows, position in zip(*parts, place, strict=True):
            args = (q, key, value, rows, position)
            if torch.is_grad_enabled() and len(place) > 1:
                chunks.append(checkpoint(_chunk, *args, use_reentrant=False))
            else:
                chunks.append(_chunk(*args))
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks, 2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.size)).transpose(1, 2)

    def _pair(self, both: Tensor) -> tuple[Tensor, Tensor]:
        key, value = both.chunk(2, -1)
        return self._split(key), self._split(value)

    def _joined(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(-2)

    def _merged(self, x: Tensor) -> Tensor:
        return self.out(self._joined(x))


def _one(query: Tensor, key: Tensor, value: Tensor, to_rows: Tensor, row_value: Tensor) -> Tensor:
    """Let a single step read the rows and all steps that are given."""
    logits = torch.cat([to_rows, query @ key.mT * query.shape[-1] ** -0.5], -1)
    return logits.softmax(-1).to(value) @ torch.cat([row_value, value], 2)


def _chunk(q: Tensor, key: Tensor, value: Tensor, to_rows: Tensor, position: Tensor) -> Tensor:
    visible = torch.arange(key.shape[2], device=q.device) <= position[:, None, :, None]
    logits = (q @ key.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~visible, float("-inf"))
    return torch.cat([to_rows, logits], -1).softmax(-1) @ value
