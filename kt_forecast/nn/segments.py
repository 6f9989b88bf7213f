"""Segments of a fixed length, counted from each sequence's first step.

A system that does something at every segment's end must do it at the same steps however a stream
is cut. Here the rows of a stretch are moved so that their segments lie under each other: what
follows then works on one segment of all rows at a time.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
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
class Laid:
    """A stretch's steps, one segment of it beside the other.

    Attributes:
        x: the steps, at the same columns of a segment in all rows; anything where there is none.
        low: the column of the first of them.
        real: where there is a step; None for everywhere.
        ended: rows whose segment ends here; None for all, but for the last segment as ``full``
            says.
        full: whether the last column of the last segment is among them.
    """

    x: Float[Tensor, "batch segment time width"]
    low: int
    real: Bool[Tensor, "#batch segment time"] | None
    ended: Bool[Tensor, "batch segment"] | None
    full: bool

    def groups(self, size: int) -> "list[Laid]":
        """Return ``size`` segments at a time."""
        parts = self.x.split(size, 1)
        real = [None] * len(parts) if self.real is None else self.real.split(size, 1)
        ended = [None] * len(parts) if self.ended is None else self.ended.split(size, 1)
        full = [True] * (len(parts) - 1) + [self.full]
        together = zip(parts, real, ended, full, strict=True)
        return [Laid(x, self.low, *rest) for x, *rest in together]


@dataclass(frozen=True)
class Segments:
    """The columns of a stretch, cut where segments end.

    Attributes:
        span: where the steps stand.
        size: steps of a segment.
    """

    span: Span
    size: int

    def cut(self, x: Float[Tensor, "batch time width"]) -> list[Piece]:
        """Return the pieces of ``x`` in order."""
        low, total, real = self._columns()
        if real is not None:
            place = self._place(low, total).clamp(0, self.span.length - 1)
            x = x.gather(1, place[..., None].expand(-1, -1, x.shape[2]))
        edges = [low, *range(self.size, total, self.size), total]
        sizes = [high - before for before, high in pairwise(edges)]
        masks = [None] * len(sizes) if real is None else real.split(sizes, 1)
        pieces = []
        for high, steps, mask in zip(edges[1:], x.split(sizes, 1), masks, strict=True):
            full = high % self.size == 0
            first = (high - 1) % self.size + 1 - steps.shape[1]
            pieces.append(Piece(steps, first, mask, full))
        return pieces

    def laid(self, x: Float[Tensor, "batch time width"]) -> Laid:
        """Return ``x`` segment by segment, with columns of no step where there are several."""
        low, high, total, real = self._bounds()
        full = high % self.size == 0 and (total == high or not self.span.uniform)
        if real is not None:
            place = self._place(low, high).clamp(0, self.span.length - 1)
            x = x.gather(1, place[..., None].expand(-1, -1, x.shape[2]))
        elif (missing := high - low - self.span.length) > 0:
            before = self.span.low % self.size - low
            x = F.pad(x, (0, 0, before, missing - before))
            column = torch.arange(low, high, device=x.device)[None]
            real = (column >= low + before) & (column < total)
        size = min(self.size, high - low)
        real = None if real is None else real.unflatten(1, (-1, size))
        ended = None if real is None or self.span.uniform else real[..., -1]
        return Laid(x.unflatten(1, (-1, size)), low, real, ended, full)

    def lifted(
        self, y: Float[Tensor, "batch segment column width"]
    ) -> Float[Tensor, "batch time width"]:
        """Return what came of what `laid` gave at the places of its steps."""
        low, _, _, _ = self._bounds()
        return self._own(y.flatten(1, 2), low)

    def _bounds(self) -> tuple[int, int, int, Bool[Tensor, "batch time"] | None]:
        """Do as `_columns` with whole segments, if there are several."""
        low, total, real = self._columns()
        if total <= self.size:
            return low, total, total, real
        high = -(-total // self.size) * self.size
        if real is not None:
            place = self._place(0, high)
            real = (place >= 0) & (place < self.span.count[:, None])
        return 0, high, total, real

    def paste(self, pieces: list[Tensor]) -> Float[Tensor, "batch time width"]:
        """Return what came of the pieces at the places of their steps."""
        y = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
        return y if self.span.uniform else self._own(y, self._columns()[0])

    def _own(self, y: Tensor, low: int) -> Tensor:
        """Return the stretch's own steps of columns that begin at ``low``."""
        length = self.span.length
        if self.span.uniform:
            before = self.span.low % self.size - low
            return y[:, before : before + length]
        column = torch.arange(length, device=y.device)
        place = (self.span.before % self.size - low)[:, None] + column
        return y.gather(1, place.clamp_max(y.shape[1] - 1)[..., None].expand(-1, -1, y.shape[2]))

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
