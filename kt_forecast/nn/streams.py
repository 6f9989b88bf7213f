"""Segments of streams: only real steps, one sequence a row, each step's place counted.

A mixer that keeps a state may be handed padding anywhere and new sequences anywhere. What follows
here turns that into stretches in which each row goes on with one sequence and its real steps stand
on the left, so that the mixer itself only needs to know how many steps each row saw before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol, Self, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class Counted(Protocol):
    """A state of zeros at the start, batch first, that counts what each row has seen."""

    @property
    def position(self) -> Tensor:
        """Return the number of steps each row has seen."""
        ...

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the state with every tensor changed."""
        ...


S = TypeVar("S", bound=Counted)


@dataclass(frozen=True)
class Span:
    """Where the steps of a segment stand in their sequences.

    Attributes:
        before: steps that each row has seen.
        count: real steps of each row, which stand on the left.
        length: columns of the segment.
        low: least of ``before``.
        high: greatest of ``before``.
        whole: whether every column of every row is real.
        ends: whether nothing follows, so that no state need be kept.
    """

    before: Int[Tensor, " batch"]
    count: Int[Tensor, " batch"]
    length: int
    low: int
    high: int
    whole: bool
    ends: bool = field(default=False, kw_only=True)

    @classmethod
    def beginning(cls, x: Float[Tensor, "batch time width"], *, ends: bool = False) -> Self:
        """Return the span of steps that begin their sequences; padding may follow."""
        batch, steps = x.shape[:2]
        before = torch.zeros(batch, dtype=torch.int64, device=x.device)
        return cls(before, before + steps, steps, 0, 0, whole=True, ends=ends)

    @property
    def uniform(self) -> bool:
        """Whether all rows are at the same place and full."""
        return self.whole and self.low == self.high

    @property
    def position(self) -> Int[Tensor, "batch time"]:
        """Return each step's place in its sequence."""
        return self.before[:, None] + self._column

    @property
    def places(self) -> Int[Tensor, "#batch time"]:
        """Return the steps' positions, of one row where all rows have the same."""
        return self.position[:1] if self.uniform else self.position

    @property
    def real(self) -> Bool[Tensor, "batch time"]:
        """Return where a step is real."""
        return self._column < self.count[:, None]

    @property
    def _column(self) -> Tensor:
        return torch.arange(self.length, device=self.before.device)

    def shortened(self, stride: int) -> "Span":
        """Return the span of the tokens made at the places that ``stride`` divides."""
        before = (self.before + stride - 1) // stride
        count = (self.before + self.count + stride - 1) // stride - before
        low, high = -(-self.low // stride), -(-self.high // stride)
        stop = -(-(self.low + self.length) // stride)
        length = stop - low if self.uniform else int(count.max())
        return Span(before, count, length, low, high, whole=self.uniform)


def streamed(
    run: Callable[[Tensor, S, Span], tuple[Tensor, S]],
    nothing: Callable[[int], S],
    x: Float[Tensor, "batch time width"],
    state: S | None,
    valid: Bool[Tensor, "batch time"] | None,
    reset: Bool[Tensor, "batch time"] | None,
) -> tuple[Float[Tensor, "batch time width"], S | None]:
    """Run at once over steps that begin their sequences, else over those of each in turn.

    Args:
        run: as for `in_turn`.
        nothing: returns the state of a batch before its first step.
        x: steps.
        state: what earlier passes left behind; None at the start.
        valid: False at padding.
        reset: True at the first step of a new sequence.

    Returns:
        One vector a step, and the state afterwards (None for a pass without ``state``).
    """
    carried = nothing(len(x)) if state is None else state
    if state is None and valid is None and reset is None:
        return run(x, carried, Span.beginning(x, ends=True))[0], None
    y, after = in_turn(run, x, carried, valid, reset)
    return y, None if state is None else after


def in_turn(
    run: Callable[[Tensor, S, Span], tuple[Tensor, S]],
    x: Float[Tensor, "batch time width"],
    state: S,
    valid: Bool[Tensor, "batch time"] | None,
    reset: Bool[Tensor, "batch time"] | None,
) -> tuple[Float[Tensor, "batch time width"], S]:
    """Run over the real steps of each sequence in turn; see `kt_forecast.nn.system.Mixer`.

    Args:
        run: takes real steps, the state before them and their span; gives one vector a step and
            the state afterwards.
        x: steps.
        state: of zeros at the start.
        valid: False at padding.
        reset: True at the first step of a new sequence.
    """
    edges = uninterrupted(reset, x.shape[1])
    pieces = []
    for (low, high), piece in zip(edges, x.split([b - a for a, b in edges], 1), strict=True):
        if reset is not None:
            state = _begun(state, reset[:, low])
        y, state = _only_real(run, piece, state, None if valid is None else valid[:, low:high])
        pieces.append(y)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1), state


def by_masks(
    run: Callable[[Tensor, S, Span], tuple[Tensor, S]],
    x: Float[Tensor, "batch time width"],
    state: S,
    valid: Bool[Tensor, "batch time"],
) -> tuple[Float[Tensor, "batch time width"], S]:
    """Do as `in_turn` without a look at numbers, which an exported program cannot take.

    Args:
        run: as for `in_turn`; may not ask for the span's ``low`` and ``high``.
        x: steps, none of which begins a new sequence.
        state: before them.
        valid: False at padding.
    """
    order = (~valid).int().argsort(dim=1, stable=True)[..., None].expand_as(x)
    span = Span(state.position, valid.sum(1), x.shape[1], 0, 0, whole=False)
    y, state = run(x.gather(1, order), state, span)
    return torch.zeros_like(y).scatter(1, order, y), state


def uninterrupted(reset: Bool[Tensor, "batch time"] | None, steps: int) -> list[tuple[int, int]]:
    """Return the stretches of steps inside which no row begins a new sequence."""
    begins = [] if reset is None else torch.nonzero(reset.any(0))[:, 0].tolist()
    return list(pairwise([0, *(step for step in begins if step > 0), steps]))


def appended(
    cache: Float[Tensor, "batch head slot size"],
    new: Float[Tensor, "batch head time size"],
    span: Span,
) -> Float[Tensor, "batch head longer size"]:
    """Put new entries at the places of their steps: slot i holds what step i left.

    Returns:
        A cache with as many slots as the longest sequence has steps, zero where there are none.
    """
    new = new.to(cache.dtype)
    if span.ends:
        return new
    if span.uniform and cache.shape[2] == span.low:
        return torch.cat([cache, new], 2)
    slots = int((span.before + span.count).max())
    cache = cache[:, :, :slots]
    empty = cache.new_zeros(*cache.shape[:2], slots + 1 - cache.shape[2], cache.shape[3])
    place = torch.where(span.real, span.position, slots)[:, None, :, None].expand_as(new)
    return torch.cat([cache, empty], 2).scatter(2, place, new)[:, :, :slots]


def _begun(state: S, begins: Tensor) -> S:
    """Return the state with the rows that begin a sequence set to zero."""
    return state.map(lambda t: t.masked_fill(begins.reshape(-1, *([1] * (t.ndim - 1))), 0))


def _only_real(
    run: Callable[[Tensor, S, Span], tuple[Tensor, S]], x: Tensor, state: S, valid: Tensor | None
) -> tuple[Tensor, S]:
    """Move real steps to the left, run, and put what came of them back."""
    before, steps = state.position, x.shape[1]
    count = torch.full_like(before, steps) if valid is None else valid.sum(1)
    low, high, least, most = _seen(before, steps if valid is None else count)
    if least == steps:
        return run(x, state, Span(before, count, steps, low, high, whole=True))
    if most == 0 or valid is None:
        return torch.zeros_like(x), state
    order = (~valid).long().argsort(dim=1, stable=True)[:, :most, None].expand(-1, -1, x.shape[2])
    span = Span(before, count, most, low, high, whole=least == most)
    y, state = run(x.gather(1, order), state, span)
    return y.new_zeros(x.shape).scatter(1, order, y), state


def _seen(before: Tensor, count: Tensor | int) -> tuple[int, int, int, int]:
    """Return the least and greatest of both in one look, for on a GPU each waits for all work."""
    if isinstance(count, int):
        low, high = (
            torch.stack(before.aminmax()).tolist() if len(before) > 1 else 2 * before.tolist()
        )
        return low, high, count, count
    ends = torch.stack([*before.aminmax(), *count.aminmax()])
    low, high, least, most = ends.tolist()
    return low, high, least, most
