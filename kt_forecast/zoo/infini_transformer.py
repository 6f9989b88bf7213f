"""Infini-Transformer: attention within a segment, beside a memory of all segments before it.

Time is cut into segments on a grid that begins with the sequence. Within its segment a step attends
to the steps up to it. What lies before the segment is one matrix a head, linear attention's sum of
keys and values, which a step reads by the same query; a learned gate mixes the two readings. A
segment enters the memory when it is complete and is read from the step after it, so that no step
reads what came later, and none reads its own segment twice.

Departures from the paper:
    - two layers and short segments by default;
    - rotary positions within the segment; the memory's queries and keys have none;
    - the gates' logits are stored divided by a constant, so that they learn faster than the rest,
      since the paper's gates are known to hardly move;
    - an empty memory gives zeros, and the gate mixes them in as it does anything else;
    - attention weights are never dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attention import Rotary, turned
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

EPSILON = 1e-6
"""Added to what a reading of the memory is divided by."""
GATE_SPEED = 10.0
"""How many times faster a gate's logit learns than another number."""


class InfiniConfig(HeadsConfig):
    """Settings of the Infini-Transformer.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width`` into even sizes.
        segment: steps of a segment; part of the function, not of its cost alone.
        rule: ``linear``: a segment's values are added to the memory; ``delta``: what the memory
            gave for their keys before is taken from them first.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    layers: int = tunable(2, (1, 2, 4), gt=0)
    segment: int = tunable(64, (16, 32, 64, 128), gt=0)
    rule: Literal["linear", "delta"] = tunable("linear", ("linear", "delta"))
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


@dataclass(frozen=True)
class InfiniState(State):
    """What a layer keeps.

    Attributes:
        memory: sum of the products of keys and values of all complete segments.
        total: sum of their keys.
        keys: of the open segment, not rotated; zero where no step has come yet.
        values: of the open segment.
    """

    memory: Float[Tensor, "batch head size size"]
    total: Float[Tensor, "batch head size"]
    keys: Float[Tensor, "batch head segment size"]
    values: Float[Tensor, "batch head segment size"]


class InfiniAttention(nn.Module):
    """Local attention beside a compressive memory; see `kt_forecast.nn.stack.Mixing`."""

    def __init__(self, config: InfiniConfig) -> None:
        super().__init__()
        self.heads, self.size = config.heads, config.width // config.heads
        self.segment = config.segment
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.gate = nn.Parameter(torch.zeros(config.heads))
        self.rotary = Rotary(self.size)
        self.remembered = linear_rule if config.rule == "linear" else delta_rule

    def init_state(self, batch: int) -> InfiniState:
        """Return an empty memory and an empty segment."""
        new, heads, size = self.out.weight.new_zeros, self.heads, self.size
        segment = new(batch, heads, self.segment, size)
        return InfiniState(new(batch, heads, size, size), new(batch, heads, size), segment, segment)

    def forward(
        self, x: Float[Tensor, "batch time width"], state: InfiniState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], InfiniState]:
        """Return what each step read, and the state after the last real step."""
        parts = self.query_key_value(x).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        if span.uniform and span.length == 1:
            y, state = self._alone(q, k, v, state, span.low % self.segment)
            return self.out(y.transpose(1, 2).flatten(2).to(x.dtype)), state
        grid = Grid(span, self.segment)
        k, keys = grid.placed(k, state.keys)
        v, values = grid.placed(v, state.values)
        memories, totals, memory, total = self._memories(k, v, state, grid)
        one = x.shape[1] == 1
        q = q[:, :, None] if one else grid.placed(q, torch.zeros_like(state.keys))[0]
        local = self._of_one(q, k, v, grid) if one else self._local(q, k, v)
        if one:
            memories, totals = memories[:, :, :1], totals[:, :, :1]
        y = self._gated(_read(q.to(memories.dtype), memories, totals), local)
        y = y[:, :, 0] if one else grid.taken(y)
        y = self.out(y.transpose(1, 2).flatten(2).to(x.dtype))
        return y, InfiniState(memory, total, keys, values)

    def _gated(self, long: Tensor, local: Tensor) -> Tensor:
        """Weigh what the memory gave with what the segment gave."""
        share = (GATE_SPEED * self.gate).sigmoid().reshape(-1, *([1] * (long.ndim - 2)))
        return share * long + (1 - share) * local

    def _alone(
        self, q: Tensor, k: Tensor, v: Tensor, state: InfiniState, at: int
    ) -> tuple[Tensor, InfiniState]:
        """Read and keep the step of each row that stands at the same column of its segment."""
        kept = (state.keys, state.values)
        keys, values = (
            torch.cat([old[:, :, :at], new.to(old.dtype), old[:, :, at + 1 :]], 2)
            for old, new in zip(kept, (k, v), strict=True)
        )
        near = keys[:, :, : at + 1]
        cos, sin = self.rotary.angles(torch.arange(at + 1, device=q.device)[None], q.dtype)
        q_ = turned(q, (cos[:, :, at:], sin[:, :, at:]))
        k_, v_ = (t.to(q_.dtype) for t in (turned(near, (cos, sin)), values[:, :, : at + 1]))
        local = F.scaled_dot_product_attention(q_, k_, v_)
        exact = torch.promote_types(v.dtype, torch.float32)
        memory, total = state.memory.to(exact), state.total.to(exact)
        y = self._gated(_read(q.to(memory.dtype), memory, total), local)
        if at + 1 == self.segment:
            with torch.autocast(v.device.type, enabled=False):
                given = (positive(keys.to(exact))[:, :, None], values.to(exact)[:, :, None])
                after = self.remembered(*given, memory, total)
            memory, total = (t[:, :, -1].clone() for t in after)
            keys, values = torch.zeros_like(keys), torch.zeros_like(values)
        return y, InfiniState(memory, total, keys, values)

    def _local(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend within each segment."""
        q, k = self._rotated(q), self._rotated(k)
        q_, k_, v_ = (part.transpose(1, 2).flatten(0, 1) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q_, k_, v_, is_causal=True)
        return y.unflatten(0, (-1, q.shape[2])).transpose(1, 2)

    def _of_one(self, q: Tensor, k: Tensor, v: Tensor, grid: "Grid") -> Tensor:
        """Do as `_local` for a single step, which belongs to the open segment."""
        q, k = self.rotary(q[:, :, 0], grid.offset[:, None]), self._rotated(k)
        seen = torch.arange(self.segment, device=q.device) <= grid.offset[:, None]
        seen = seen[:, None, None]
        return F.scaled_dot_product_attention(q, k[:, :, 0], v[:, :, 0], attn_mask=seen)[:, :, None]

    def _rotated(self, x: Tensor) -> Tensor:
        place = torch.arange(self.segment, device=x.device)[None]
        return self.rotary(x.flatten(1, 2), place).reshape(x.shape)

    def _memories(
        self, k: Tensor, v: Tensor, state: InfiniState, grid: "Grid"
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the memory that each segment reads, and the one after the complete ones."""
        dtype = torch.promote_types(v.dtype, torch.float32)
        with torch.autocast(v.device.type, enabled=False):
            complete = grid.complete[:, None, :, None, None]
            k = positive(k.to(dtype)) * complete
            memories, totals = self.remembered(
                k, v.to(dtype), state.memory.to(dtype), state.total.to(dtype)
            )
        return memories[:, :, :-1], totals[:, :, :-1], memories[:, :, -1], totals[:, :, -1]


class Grid:
    """Segments on a grid that begins with each row's sequence.

    The first segment here is the one that was open; its steps so far stand in the state.

    Attributes:
        offset: steps of the open segment so far.
        complete: which segments are complete now.
    """

    def __init__(self, span: Span, segment: int) -> None:
        self.span, self.segment = span, segment
        self.offset = span.before % segment
        self.segments = -(-(self._most() + span.length) // segment)
        number = torch.arange(1, self.segments + 1, device=self.offset.device)
        self.complete = number * segment <= (self.offset + span.count)[:, None]

    def _most(self) -> int:
        """Return how many steps an open segment has at most, with few looks at numbers."""
        if torch.compiler.is_exporting():
            return self.segment - 1
        uniform = self.span.uniform
        return self.span.low % self.segment if uniform else int(self.offset.max())

    def placed(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Put steps behind those kept; return all segments, and what is kept now.

        Args:
            x: one vector for each head and step.
            kept: the open segment.
        """
        joined = torch.cat([kept.to(x.dtype), x], 2)
        column = torch.arange(self.segments * self.segment, device=x.device)
        behind = self.segment + column - self.offset[:, None]
        index = torch.where(column < self.offset[:, None], column, behind)
        index = index.clamp_max(joined.shape[2] - 1)
        grid = joined.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
        length = self.offset + self.span.count
        real = (column < length[:, None])[:, None, :, None]
        grid = torch.where(real, grid, 0)
        slot = torch.arange(self.segment, device=x.device)
        place = (length // self.segment * self.segment)[:, None] + slot
        open_ = (place < length[:, None])[:, None, :, None]
        place = place.clamp_max(grid.shape[2] - 1)[:, None, :, None]
        left = grid.gather(2, place.expand(-1, x.shape[1], -1, x.shape[3]))
        left = torch.where(open_, left, 0).to(kept.dtype)
        return grid.unflatten(2, (self.segments, self.segment)), left

    def taken(self, grid: Tensor) -> Tensor:
        """Return what stands at the steps; the inverse of `placed`."""
        flat = grid.flatten(2, 3)
        column = self.offset[:, None] + torch.arange(self.span.length, device=grid.device)
        return flat.gather(2, column[:, None, :, None].expand(-1, flat.shape[1], -1, flat.shape[3]))


def positive(x: Tensor) -> Tensor:
    """Return the features by which the memory is read and written (their `sigma`)."""
    return F.elu(x) + 1


def _read(q: Tensor, memory: Tensor, total: Tensor) -> Tensor:
    """Return the values that queries find in memories."""
    with torch.autocast(q.device.type, enabled=False):
        q = positive(q)
        return (q @ memory) / (q @ total[..., None] + EPSILON)


Rule = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def linear_rule(k: Tensor, v: Tensor, memory: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Return the memory before each segment and after the last, adding every segment's values.

    Args:
        k: features of the keys of each segment; zero where a segment does not enter.
        v: values of each segment.
        memory: before the first segment.
        total: sum of the features of keys before the first segment.

    Returns:
        The memories and the sums of features, one more than there are segments.
    """
    memories = torch.cat([memory[:, :, None], k.transpose(-1, -2) @ v], 2).cumsum(2)
    return memories, torch.cat([total[:, :, None], k.sum(3)], 2).cumsum(2)


def delta_rule(k: Tensor, v: Tensor, memory: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Do as `linear_rule`, taking from each value what the memory gave for its key before."""
    totals = torch.cat([total[:, :, None], k.sum(3)], 2).cumsum(2)
    # All but the memories themselves for all segments at once: what a segment adds to the one
    # before it, and by which matrix it takes from it.
    weight = k / (k @ totals[:, :, :-1, :, None] + EPSILON)
    added, taken = k.transpose(-1, -2) @ v, k.transpose(-1, -2) @ weight
    memories = [memory]
    for more, less in zip(added.unbind(2), taken.unbind(2), strict=True):
        memory = memory + more - less @ memory
        memories.append(memory)
    return torch.stack(memories, 2), totals


def build(config: InfiniConfig) -> Stack:
    """Return the mixer."""
    inner = config.expansion * config.width
    layers = [
        MixingLayer(InfiniAttention(config), config.width, inner=inner, dropout=config.dropout)
        for _ in range(config.layers)
    ]
    return Stack(layers, nn.LayerNorm(config.width))


SYSTEM = System(
    family="memory",
    config=InfiniConfig,
    build=build,
    paper=Paper(
        title="Leave No Context Behind: Efficient Infinite Context Transformers with "
        "Infini-attention",
        authors="Munkhdalai, Faruqui, Gopal",
        year=2024,
        url="https://arxiv.org/abs/2404.07143",
    ),
    promises=Promises(
        causality="step",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=1, training_bytes=1, step_flops=0, state_bytes=0),
    ),
    tracing={"scheme": "shifted"},
    forecasting={"dense": True},
)
