"""Attention by relative position (Dai et al. 2019, Transformer-XL), segment by segment.

A logit has a part for what the key holds and a part for how far back it stands, with a learned
offset of the query for each: ``(q + u) k + (q + v) W r``, r the sinusoids of the distance.

Segments lie on a grid of each sequence's own steps, so that what a step reads, and what it learns
from, depends on its place in its sequence and not on how the sequence was cut into passes. Steps
before a step's segment are its memory: constants, through which no gradient flows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kt_forecast.nn.rates import trailing
from kt_forecast.nn.streams import Span, streamed
from kt_forecast.nn.system import State

SEGMENTS_KEPT = 16
"""Segments whose weights are kept for the backward pass; those of more are formed again."""
AT_ONCE = 64
"""Segments of all rows together whose weights are formed at a time, if they are not more."""


@dataclass(frozen=True)
class Grid:
    """Steps of a pass in segments of equal length.

    Attributes:
        span: where the steps stand.
        length: columns of a segment.
        back: columns before a segment that its steps may read.
        shift: columns of the first segment before each row's first step; one number where all rows
            have the same.
        segments: how many segments the steps touch.
        stops: whether no gradient flows into what stands before a segment.
    """

    span: Span
    length: int
    back: int
    shift: Int[Tensor, " batch"] | int
    segments: int
    stops: bool

    @classmethod
    def laid(cls, span: Span, length: int, back: int, *, stops: bool = True) -> "Grid":
        """Lay the segments at whole multiples of their length, in each row's own count."""
        shift = span.low % length if span.low == span.high else span.before % length
        most = shift if isinstance(shift, int) else int(shift.max())
        return cls(span, length, back, shift, -(-(most + span.length) // length), stops)

    @classmethod
    def anywhere(cls, span: Span, length: int, back: int) -> "Grid":
        """Lay the first segment where the pass begins: for values that do not depend on it."""
        length = max(min(length, span.length), 1)
        return cls(span, length, back, 0, -(-span.length // length), stops=False)

    def trimmed(self) -> "Grid":
        """Return the grid without columns that stand before all sequences or after the pass."""
        shift = self.shift if isinstance(self.shift, int) else int(self.shift.max())
        length = shift + self.span.length if self.segments == 1 else self.length
        back = min(self.back, self.span.high + (self.segments - 1) * self.length)
        return replace(self, length=length, back=back)

    @property
    def first(self) -> Int[Tensor, "#batch"]:
        """Return the place of the first segment's first column."""
        before = self.span.before
        return (before[:1] if isinstance(self.shift, int) else before) - self.shift

    def columns(
        self, joined: Float[Tensor, "batch joined width"]
    ) -> Float[Tensor, "batch column width"]:
        """Return what the segments may read and their own steps; zero where there is no step.

        Args:
            joined: at least the ``back`` steps before the pass, and its steps.
        """
        joined = joined[:, joined.shape[1] - self.span.length - self.back :]
        wanted = self.back + self.segments * self.length
        if isinstance(self.shift, int):
            return F.pad(joined, (0, 0, self.shift, wanted - self.shift - joined.shape[1]))
        place = torch.arange(wanted, device=joined.device) - self.shift[:, None]
        inside = (place >= 0) & (place < joined.shape[1])
        place = place.clamp(0, joined.shape[1] - 1)[..., None].expand(-1, -1, joined.shape[2])
        return joined.gather(1, place) * inside[..., None]

    def steps(
        self, y: Float[Tensor, "batch segment length width"]
    ) -> Float[Tensor, "batch time width"]:
        """Return the pass's own steps, of what was made of the segments."""
        y = y.flatten(1, 2)
        if isinstance(self.shift, int):
            return y[:, self.shift : self.shift + self.span.length]
        place = torch.arange(self.span.length, device=y.device) + self.shift[:, None]
        return y.gather(1, place[..., None].expand(-1, -1, y.shape[2]))

    def window(self, window: int) -> Bool[Tensor, "#batch segment length key"]:
        """Return which of the keys of its segment a step reads: the latest ones that there are."""
        device = self.span.before.device
        own = torch.arange(self.length, device=device)[:, None] + self.back
        key = torch.arange(self.back + self.length, device=device)
        band = (key <= own) & (key > own - window)
        begin = torch.arange(self.segments, device=device) * self.length - self.back
        place = self.first[:, None, None] + begin[:, None] + key
        return band & (place >= 0)[:, :, None]


class RelativeAttention(nn.Module):
    """Multi-head attention within segments and to what stands before them.

    Args:
        width: numbers in a step's vector.
        heads: must divide ``width``.
        norm: what is done to steps before they read and are read; memories are kept without it.
        clamp: distance beyond which all distances are alike; None for none.
    """

    def __init__(
        self, width: int, heads: int, *, norm: nn.Module, clamp: int | None = None
    ) -> None:
        super().__init__()
        self.heads, self.size, self.clamp = heads, width // heads, clamp
        self.norm = norm
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.distance = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.content_offset = nn.Parameter(torch.zeros(heads, 1, self.size))
        self.distance_offset = nn.Parameter(torch.zeros(heads, 1, self.size))

    def forward(
        self,
        columns: Float[Tensor, "batch column width"],
        visible: Bool[Tensor, "#batch segment length key"],
        grid: Grid,
        older: Float[Tensor, "batch segment slot width"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """Return what each step of the pass read.

        Args:
            columns: as `Grid.columns` gives them.
            visible: which keys of its segment each step reads; itself always.
            grid: where the segments lie.
            older: further keys, which stand before the columns of each segment.
        """
        back, length = grid.back, grid.length
        if grid.stops:
            own = self.norm(columns[:, back:])
            before = columns[:, : columns.shape[1] - length].detach()
            before = self.key_value(self.norm(before)).unfold(1, back, length).mT
            read = torch.cat([before, self.key_value(own).unflatten(1, (-1, length))], 2)
        else:
            columns = self.norm(columns)
            own = columns[:, back:]
            read = self.key_value(columns).unfold(1, back + length, length).mT
        if older is not None:
            read = torch.cat([self.key_value(self.norm(older)), read], 2)
        q = self.split(self.query(own).unflatten(1, (-1, length)))
        k, v = (self.split(half) for half in read.chunk(2, dim=-1))
        return self.out(grid.steps(self.attend(q, k, v, visible)))

    def split(
        self, x: Float[Tensor, "batch segment length width"]
    ) -> Float[Tensor, "batch segment head length size"]:
        """Return the heads' parts."""
        return x.unflatten(-1, (self.heads, self.size)).transpose(2, 3)

    def attend(
        self,
        q: Float[Tensor, "batch segment head length size"],
        k: Float[Tensor, "batch segment head key size"],
        v: Float[Tensor, "batch segment head key size"],
        visible: Bool[Tensor, "#batch segment length key"],
    ) -> Float[Tensor, "batch segment length width"]:
        """Return what the queries, those of the last keys, read; all heads side by side."""
        table = self._table(k.shape[3], q)
        again = torch.is_grad_enabled() and q.shape[1] > SEGMENTS_KEPT
        size, parts = max(SEGMENTS_KEPT, AT_ONCE // len(q)), []
        for some in zip(*(x.split(size, 1) for x in (q, k, v, visible)), strict=True):
            args = (*some, table)
            parts.append(
                checkpoint(self._weigh, *args, use_reentrant=False) if again else self._weigh(*args)
            )
        return torch.cat(parts, 1).transpose(2, 3).flatten(3)

    def _table(self, count: int, like: Tensor) -> Tensor:
        """Return what each distance is to each head, the farthest first."""
        distance = torch.arange(count - 1, -1, -1, device=like.device)
        distance = distance if self.clamp is None else distance.clamp_max(self.clamp)
        wave = sinusoids(distance, self.heads * self.size).to(self.distance.weight.dtype)
        return self.distance(wave).unflatten(-1, (self.heads, self.size)).transpose(0, 1)

    def _weigh(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor, table: Tensor) -> Tensor:
        content = (q + self.content_offset) @ k.mT
        place = shifted((q + self.distance_offset) @ table.mT)
        logits = (content + place) / math.sqrt(self.size)
        return logits.masked_fill(~visible[:, :, None], float("-inf")).softmax(-1).to(v) @ v


class SegmentLayer(Protocol):
    """What `SegmentStack` asks of a layer."""

    def __call__(
        self,
        x: Float[Tensor, "batch time width"],
        columns: Float[Tensor, "batch column width"],
        visible: Bool[Tensor, "#batch segment length key"],
        grid: Grid,
    ) -> Float[Tensor, "batch time width"]:
        """Return the layer's result from its input and what that may read."""
        ...


@dataclass(frozen=True)
class SegmentState(State):
    """What a `SegmentStack` keeps.

    Attributes:
        position: steps that each row has seen.
        memories: each layer's latest inputs; zero before the first step.
    """

    position: Int[Tensor, " batch"]
    memories: tuple[Float[Tensor, "batch kept width"], ...]


class SegmentStack(nn.Module):
    """Layers that each keep the inputs of earlier steps; see `kt_forecast.nn.system.Mixer`.

    Args:
        layers: from the first to the last.
        norm: of the last layer's result.
        width: numbers in a step's vector.
        segment: steps of a segment.
        window: steps that a step reads in each layer, itself included.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        norm: nn.Module,
        *,
        width: int,
        segment: int,
        window: int,
    ) -> None:
        super().__init__()
        self.layers: Sequence[SegmentLayer] = nn.ModuleList(layers)  # type: ignore[assignment]
        self.norm = norm
        self.width, self.segment, self.window = width, segment, window

    def init_state(self, batch: int) -> SegmentState:
        """Return empty memories."""
        weight = next(self.parameters())
        memory = weight.new_zeros(batch, self.window - 1, self.width)
        position = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return SegmentState(position, (memory,) * len(self.layers))

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: SegmentState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], SegmentState | None]:
        """Let each step read the latest steps up to it, layer by layer.

        Args:
            x: embedded steps, oldest first.
            state: what earlier passes left behind; None at the start.
            valid: False at padding.
            reset: True at the first step of a new sequence.

        Returns:
            One vector a step, and the state afterwards (None for a pass without ``state``).
        """
        return streamed(self._run, self.init_state, x, state, valid, reset)

    def _run(self, x: Tensor, state: SegmentState, span: Span) -> tuple[Tensor, SegmentState]:
        # Only gradients depend on where segments lie.
        lay = Grid.laid if torch.is_grad_enabled() else Grid.anywhere
        grid = lay(span, self.segment, self.window - 1).trimmed()
        visible = grid.window(self.window)
        memories = []
        for layer, memory in zip(self.layers, state.memories, strict=True):
            joined = torch.cat([memory, x], 1)
            memories.append(trailing(joined, self.window - 1, span))
            x = layer(x, grid.columns(joined), visible, grid)
        return self.norm(x), SegmentState(state.position + span.count, tuple(memories))


def shifted(place: Float[Tensor, "*batch query key"]) -> Float[Tensor, "*batch query key"]:
    """Turn logits by distance, the farthest first, into logits by key.

    The queries are those of the last keys. What stands where a key follows its query is another
    query's logit: it must be masked.
    """
    queries, keys = place.shape[-2:]
    turned = F.pad(place, (1, 0)).reshape(*place.shape[:-2], keys + 1, queries)
    return turned[..., 1:, :].reshape(place.shape)


def sinusoids(place: Int[Tensor, "*batch"], width: int) -> Float[Tensor, "*batch width"]:
    """Return the sines and then the cosines of places, in float64: exact for millions of steps."""
    rate = torch.arange(0, width, 2, device=place.device, dtype=torch.float64) / -width
    angle = place[..., None].to(torch.float64) * 10_000.0**rate
    return torch.cat([angle.sin(), angle.cos()], -1)[..., :width]
