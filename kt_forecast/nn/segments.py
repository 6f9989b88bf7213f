"""Segments of a fixed length, counted from each sequence's first step.

A system that does something at every segment's end must do it at the same steps however a stream
is cut. Here the rows of a stretch are moved so that their segments lie under each other: what
follows then works on one segment of all rows at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kt_forecast.nn.streams import Span


@dataclass(frozen=True)
class Piece:
    """What a stretch holds of one segment.

    Attributes:
        x: its steps, at the same columns of the segment in all rows.
        low: the column of the first of them.
        real: where there is a step; None for everywhere.
        full: whether the last column of the segment is among them.
    """

    x: Float[Tensor, "batch time width"]
    low: int
    real: Bool[Tensor, "batch time"] | None
    full: bool

    @property
    def high(self) -> int:
        """Return the column after the last one."""
        return self.low + self.x.shape[1]

    def begun(self) -> Bool[Tensor, " batch"] | None:
        """Return the rows whose segment begins here; None for all, if ``low`` is zero."""
        return None if self.real is None else self.real[:, 0]

    def ended(self) -> Bool[Tensor, " batch"] | None:
        """Return the rows whose segment ends here; None for all, if ``full``."""
        return None if self.real is None else self.real[:, -1]


@dataclass(frozen=True)
class Segments:
    """The columns of a stretch, cut where segments end.

    Attributes:
        span: where the steps stand.
        size: steps of a segment.
    """

    span: Span
    size: int

    def cut(self, x: Float[Tensor, "batch time width"]) -> Iterator[Piece]:
        """Yield the pieces of ``x`` in order."""
        low, total, real = self._columns()
        if real is not None:
            place = self._place(low, total).clamp(0, self.span.length - 1)
            x = x.gather(1, place[..., None].expand(-1, -1, x.shape[2]))
        edges = [low, *range(self.size, total, self.size), total]
        sizes = [high - before for before, high in pairwise(edges)]
        masks = [None] * len(sizes) if real is None else real.split(sizes, 1)
        for high, steps, mask in zip(edges[1:], x.split(sizes, 1), masks, strict=True):
            full = high % self.size == 0
            first = (high - 1) % self.size + 1 - steps.shape[1]
            yield Piece(steps, first, mask, full)

    def paste(self, pieces: list[Tensor]) -> Float[Tensor, "batch time width"]:
        """Return what came of the pieces at the places of their steps."""
        y = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
        if self.span.uniform:
            return y
        low, total, _ = self._columns()
        place = (self.span.before % self.size - low)[:, None] + torch.arange(
            self.span.length, device=y.device
        )
        return y.gather(1, place.clamp_max(total - low - 1)[..., None].expand(-1, -1, y.shape[2]))

    def _columns(self) -> tuple[int, int, Bool[Tensor, "batch time"] | None]:
        """Return the first and last column that any row needs, and where there are steps."""
        span = self.span
        if span.uniform:
            low = span.low % self.size
            return low, low + span.length, None
        if span.low == span.high:
            low = span.low % self.size
            total = low + span.length
        else:
            offset = span.before % self.size
            low, total = torch.stack([offset.min(), (offset + span.count).max()]).tolist()
        place = self._place(low, total)
        return low, total, (place >= 0) & (place < span.count[:, None])

    def _place(self, low: int, total: int) -> Tensor:
        """Return the place in the stretch of each column's step."""
        column = torch.arange(low, total, device=self.span.before.device)
        return column - (self.span.before % self.size)[:, None]


def chosen(rows: Bool[Tensor, " batch"] | None, new: Tensor, old: Tensor) -> Tensor:
    """Return ``new`` in the chosen rows, None for all, and ``old`` elsewhere."""
    if rows is None:
        return new
    return torch.where(rows.reshape(-1, *([1] * (new.ndim - 1))), new, old)
