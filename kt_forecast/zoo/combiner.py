"""Combiner: attention to all of the past, part of it step by step, the rest region by region.

A step reads a few steps directly. The rest of its past is cut into regions, each with a key, the
largest of its steps' keys number by number, and a value: what the region's own query, the largest
of its steps' queries, reads within it. One softmax weighs single steps and regions alike; so the
probability of a step is that of its region times that of the step within the region, and no step
of the past is left out. Regions are complete before a step may read them.

``fixed``: segments; the own one is read directly, earlier ones are regions. ``log``: the step reads
itself directly, and its past as blocks of powers of two, the larger the farther. ``axial``: steps
in rows of a period; the own row and column are read directly, other columns above are regions.

Departures from the paper:
    - rotary positions of queries and keys, before regions take the largest of them;
    - two layers by default, and normalised copies are read (pre-norm);
    - of the forms with rows the vertical one only, without its mixture and without whole rows;
    - a segment has a given length, not one taken from the sequence's;
    - attention weights are never dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kt_forecast.config import Range, tunable
from kt_forecast.nn.heads import Heads, joined
from kt_forecast.nn.rates import trailing
from kt_forecast.nn.relative import Grid
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span, appended
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

SEGMENTS_KEPT = 8
"""Segments or rows whose weights are kept for the backward pass; those of more are formed again."""
NUMBERS_AT_ONCE = 2**28
"""Numbers of logits, keys and values that are there at once."""
EVEN = 16
"""Keys are filled up to whole multiples of these, as fused kernels of GPUs want them."""
STEPS_KEPT = 512
"""Steps for which levels of blocks are kept for the backward pass; those of more are not."""

OfSegments = Float[Tensor, "batch segment head length size"]


class CombinerConfig(HeadsConfig):
    """Settings of the Combiner.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width`` into even sizes.
        form: segments, blocks of powers of two, or rows and columns.
        segment: steps of a segment or of a row; of no meaning for ``log``.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    layers: int = tunable(2, (1, 2, 4), gt=0)
    form: Literal["fixed", "log", "axial"] = tunable("fixed", ("fixed", "log", "axial"))
    segment: int = tunable(32, (8, 16, 32, 64), gt=0)
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


class Combining(Heads):
    """What the forms share: queries, keys and values of steps."""

    def __init__(self, config: CombinerConfig) -> None:
        super().__init__(config.width, config.heads)
        self.segment = config.segment

    def read(
        self, x: Float[Tensor, "batch time width"], span: Span
    ) -> Float[Tensor, "batch time three"]:
        """Return rotated queries, rotated keys, and values, side by side."""
        return torch.cat([joined(part) for part in self.mapped(x, span)], -1)

    def cut(self, parts: Float[Tensor, "batch segment length _"]) -> tuple[OfSegments, ...]:
        """Return what lies side by side, by heads."""
        count = parts.shape[-1] // (self.heads * self.size)
        heads = parts.unflatten(-1, (count, self.heads, self.size))
        return tuple(t.transpose(2, 3) for t in heads.unbind(3))


def summed(q: OfSegments, k: OfSegments, v: OfSegments) -> tuple[Tensor, Tensor]:
    """Return the keys and the values of regions, each of them a segment."""
    weight = (q.amax(3, keepdim=True) @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    return k.amax(3), (weight @ v)[:, :, :, 0]


def formed(run: Callable[..., Tensor], *args: Tensor, again: bool) -> Tensor:
    """Run, keeping nothing for the backward pass but the arguments where ``again`` says so."""
    if again and torch.is_grad_enabled():
        result: Tensor = checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)
        return result
    return run(*args)


@dataclass(frozen=True)
class FixedState(State):
    """What a layer keeps of segments.

    Attributes:
        steps: queries, keys and values of the latest steps, among them those of the open segment.
        regions: keys and values of the closed segments, by number.
    """

    steps: Float[Tensor, "batch kept three"]
    regions: Float[Tensor, "batch region both"]


class Fixed(Combining):
    """Reads the own segment directly, and earlier ones as regions; see `Mixing`."""

    def init_state(self, batch: int) -> FixedState:
        """Return the state before the first step."""
        new, width = self.out.weight.new_zeros, self.heads * self.size
        return FixedState(new(batch, self.segment - 1, 3 * width), new(batch, 0, 2 * width))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: FixedState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], FixedState]:
        """Return what each step read, and the state after the last real step."""
        size, back = self.segment, self.segment - 1
        both = torch.cat([state.steps, self.read(x, span)], 1)
        grid = Grid.laid(span, size, back)
        columns = grid.columns(both)[:, back:].unflatten(1, (-1, size))
        q, k, v = self.cut(columns)
        regions = self._regions(q, k, v, state.regions, span)
        one = span.length == 1
        place = torch.arange(size, device=x.device)[None]
        if one:
            place = (span.before % size)[:, None]
            q = q.gather(3, place[:, None, None, :, None].expand(*q.shape[:3], 1, self.size))
        number = grid.first[:, None] // size + torch.arange(grid.segments, device=x.device)
        y = self._weighed(q, k, v, regions, place, number, span)
        y = y.transpose(2, 3).flatten(3)
        y = self.out(y[:, 0] if one else grid.steps(y))
        return y, FixedState(state.steps if span.ends else trailing(both, back, span), regions)

    def _regions(self, q: Tensor, k: Tensor, v: Tensor, before: Tensor, span: Span) -> Tensor:
        """Return keys and values of all closed segments."""
        size = self.segment
        begun = span.before // size
        count = (span.before + span.count) // size - begun
        low = span.low // size
        most = (span.low + span.length) // size - low if span.uniform else int(count.max())
        if most == 0:
            return before
        made = Span(begun, count, most, low, span.high // size, whole=span.uniform)
        new = torch.cat([t.flatten(2) for t in summed(*(t[:, :most] for t in (q, k, v)))], -1)
        return appended(before[:, None], new[:, None], made)[:, 0]

    def _weighed(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        regions: Tensor,
        place: Tensor,
        number: Tensor,
        span: Span,
    ) -> Tensor:
        """Weigh steps and regions, as many segments at a time as memory bears."""
        first, keys = span.high // self.segment, self.segment + regions.shape[1] + EVEN
        each = len(q) * self.heads * keys * (2 * self.size + q.shape[3])
        some = max(NUMBERS_AT_ONCE // each, 1)
        pieces = []
        for low in range(0, q.shape[1], some):
            high = min(low + some, q.shape[1])
            most = min(first + high - 1, regions.shape[1])
            args = (*(t[:, low:high] for t in (q, k, v)), regions[:, :most], place)
            again = q.shape[1] > SEGMENTS_KEPT
            pieces.append(formed(self._part, *args, number[:, low:high], again=again))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)

    def _part(
        self, q: Tensor, k: Tensor, v: Tensor, regions: Tensor, place: Tensor, number: Tensor
    ) -> Tensor:
        if q.shape[3] > 1:
            regions = F.pad(regions, (0, 0, 0, -(self.segment + regions.shape[1]) % EVEN))
        near = torch.arange(self.segment, device=q.device) <= place[..., None]
        far = torch.arange(regions.shape[1], device=q.device) < number[..., None]
        shape = (max(len(near), len(far)), far.shape[1], near.shape[1], -1)
        visible = torch.cat([near[:, None].expand(shape), far[:, :, None].expand(shape)], -1)
        if len(visible) > 1:
            visible = visible[:, None].expand(-1, self.heads, *shape[1:]).flatten(0, 1)
        # Segments stand where the fused kernels expect heads: these take four axes only.
        keys, values = (
            torch.cat([own, other.expand(-1, own.shape[1], -1, -1, -1)], 3)
            .transpose(1, 2)
            .flatten(0, 1)
            for own, other in zip((k, v), self.cut(regions[:, None]), strict=True)
        )
        asked = q.transpose(1, 2).flatten(0, 1)
        y = F.scaled_dot_product_attention(asked, keys, values, attn_mask=visible)
        return y.unflatten(0, (len(q), self.heads)).transpose(1, 2)


class Log(Combining):
    """Reads the past as blocks of powers of two; see `Mixing`."""

    def init_state(self, batch: int) -> Float[Tensor, "batch step three"]:
        """Return the state before the first step: no queries, keys and values."""
        return self.out.weight.new_zeros(batch, 0, 3 * self.heads * self.size)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: Float[Tensor, "batch step three"],
        span: Span,
    ) -> tuple[Float[Tensor, "batch time width"], Float[Tensor, "batch more three"]]:
        """Return what each step read, and the state after the last real step."""
        own = self.read(x, span)
        state = appended(state[:, None], own[:, None], span)[:, 0]
        q, k, v = (t[:, 0] for t in self.cut(own[:, None]))
        every = torch.stack([t[:, 0] for t in self.cut(state[:, None])])
        place = span.position[:1] if span.uniform else span.position
        again = span.length > STEPS_KEPT
        logits, values, pairs = [(q * k).sum(-1)], [], []
        for level in range((span.high + span.length - 1).bit_length()):
            pair = place >> (level + 1)
            first = place[:, :1] >> (level + 1)
            # Rows that begin elsewhere within a region meet one more than their length holds.
            size = 2 << level
            offset = span.low % size if span.uniform else size - 1
            count = (offset + span.length - 1) // size + 1
            begin = (first + torch.arange(count, device=x.device)) << (level + 1)
            step = begin[..., None] + torch.arange(1 << level, device=x.device)
            step = step.clamp_max(state.shape[1] - 1)
            both = formed(self._blocks, every, step, again=again)
            key, value = both.unbind(0)
            which = pair - first
            logit = formed(_level, q, key, which, again=again)
            later = (place >> level) & 1
            logits.append(logit.masked_fill(later[:, None] == 0, float("-inf")))
            values.append(value)
            pairs.append(which)
        weight = (torch.stack(logits, -1) * self.size**-0.5).softmax(-1).to(v)
        y = weight[..., :1] * v
        for level, (value, which) in enumerate(zip(values, pairs, strict=True)):
            y = y + formed(_added, weight[..., level + 1], value, which, again=again)
        return self.out(y.transpose(1, 2).flatten(2)), state

    def _blocks(self, every: Tensor, step: Tensor) -> Tensor:
        """Return keys and values of blocks: (two, batch, head, block, size)."""
        if len(step) == 1:
            picked = every.index_select(3, step.flatten())
        else:
            index = step.flatten(1)[None, :, None, :, None]
            picked = every.gather(3, index.expand(*every.shape[:3], -1, every.shape[4]))
        q, k, v = picked.unflatten(3, step.shape[1:]).transpose(2, 3).unbind(0)
        key, value = summed(q, k, v)
        return torch.stack([key, value]).transpose(2, 3)


def _level(q: Tensor, key: Tensor, which: Tensor) -> Tensor:
    return (q * _taken(key, which)).sum(-1)


def _added(weight: Tensor, value: Tensor, which: Tensor) -> Tensor:
    return weight[..., None] * _taken(value, which)


def _taken(
    blocks: Float[Tensor, "batch head block size"], which: Int[Tensor, "#batch time"]
) -> Float[Tensor, "batch head time size"]:
    """Return each step's block."""
    if len(which) == 1:
        return blocks.index_select(2, which[0])
    return blocks.gather(
        2, which[:, None, :, None].expand(-1, blocks.shape[1], -1, blocks.shape[3])
    )


class Axial(Combining):
    """Reads its row and its column, and other columns as regions; see `Mixing`."""

    def init_state(self, batch: int) -> Float[Tensor, "batch step three"]:
        """Return the state before the first step: no queries, keys and values."""
        return self.out.weight.new_zeros(batch, 0, 3 * self.heads * self.size)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: Float[Tensor, "batch step three"],
        span: Span,
    ) -> tuple[Float[Tensor, "batch time width"], Float[Tensor, "batch more three"]]:
        """Return what each step read, and the state after the last real step."""
        size = self.segment
        own = self.read(x, span)
        state = appended(state[:, None], own[:, None], span)[:, 0]
        grid = Grid.laid(span, size, 0)
        number = grid.first[:, None] // size + torch.arange(grid.segments, device=x.device)
        rows = max(-(-state.shape[1] // size), span.high // size + grid.segments)
        plane = F.pad(state, (0, 0, 0, rows * size - state.shape[1])).unflatten(1, (rows, size))
        q, k, v = self.cut(plane)
        pooled = torch.stack([k.cummax(1).values, q.cummax(1).values])
        each = len(x) * self.heads * size * 2 * (rows + size + self.size)
        at_once = max(NUMBERS_AT_ONCE // each, 1)
        pieces = []
        for low in range(0, grid.segments, at_once):
            some = number[:, low : low + at_once]
            above = min(span.high // size + low + some.shape[1], rows)
            args = (q, k[:, :above], v[:, :above], pooled[:, :, :above], some)
            again = grid.segments > SEGMENTS_KEPT
            pieces.append(formed(self._part, *args, again=again))
        y = torch.cat(pieces, 1).transpose(2, 3).flatten(3)
        return self.out(grid.steps(y)), state

    def _part(self, q: Tensor, k: Tensor, v: Tensor, pooled: Tensor, number: Tensor) -> Tensor:
        """Let rows read; all tensors hold rows, heads, columns."""
        scale, size, hidden = self.size**-0.5, self.segment, float("-inf")
        q, near_k, near_v = (_row(t, number) for t in (q, k, v))
        largest = torch.stack([_row(t, (number - 1).clamp_min(0)) for t in pooled])
        key, asked = largest.unbind(0)
        row = torch.arange(k.shape[1], device=q.device)
        above = row < number[..., None]
        # The first row reads no column; what would be read there is never used.
        some = row < number.clamp_min(1)[..., None]
        by_column = (2, 3, 1, 4)
        column_k, column_v = (t.permute(0, *by_column) for t in (k, v))
        within = asked.permute(0, *by_column) @ column_k.mT * scale
        within = within.masked_fill(~some[:, None, None], hidden).softmax(-1).to(v)
        value = (within @ column_v).permute(0, 3, 1, 2, 4)
        column = torch.arange(size, device=q.device)
        direct = (q @ near_k.mT).masked_fill(column > column[:, None], hidden)
        up = (q.permute(0, *by_column) @ column_k.mT).masked_fill(~above[:, None, None], hidden)
        other = (number > 0)[..., None, None] & (column != column[:, None])
        region = (q @ key.mT).masked_fill(~other[:, :, None], hidden)
        up = up.permute(0, 3, 1, 2, 4)
        weight = (torch.cat([direct, region, up], -1) * scale).softmax(-1).to(v)
        y = weight[..., :size] @ near_v + weight[..., size : 2 * size] @ value
        return y + (weight[..., 2 * size :].permute(0, *by_column) @ column_v).permute(
            0, 3, 1, 2, 4
        )


def _row(
    x: Float[Tensor, "batch row head column size"], number: Int[Tensor, "#batch some"]
) -> Float[Tensor, "batch some head column size"]:
    """Return rows by number."""
    if len(number) == 1:
        return x.index_select(1, number[0])
    index = number[..., None, None, None].expand(-1, -1, *x.shape[2:])
    return x.gather(1, index)


def build(config: CombinerConfig) -> Stack:
    """Return the mixer."""
    forms: dict[str, type[Fixed | Log | Axial]] = {"fixed": Fixed, "log": Log, "axial": Axial}
    form = forms[config.form]
    inner = config.expansion * config.width
    layers = [
        MixingLayer(form(config), config.width, inner=inner, dropout=config.dropout)
        for _ in range(config.layers)
    ]
    return Stack(layers, nn.LayerNorm(config.width))


SYSTEM = System(
    family="sparse attention",
    config=CombinerConfig,
    build=build,
    paper=Paper(
        title="Combiner: Full Attention Transformer with Sparse Computation Cost",
        authors="Ren, Dai, Dai, Yang, Leskovec, Schuurmans, Dai",
        year=2021,
        url="https://arxiv.org/abs/2107.05768",
    ),
    promises=Promises(
        causality="step",
        streaming=True,
        two_streams=False,
        cost=Cost(
            training_flops=1.5, training_bytes=1, step_flops=0.5, state_bytes=0.5, root="segment"
        ),
    ),
    tracing={"scheme": "shifted"},
    forecasting={"dense": True},
)
