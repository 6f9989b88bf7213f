"""Compressive Transformer: what leaves Transformer-XL's memory is compressed and kept for longer.

Each layer keeps the inputs of recent steps, and of older ones a few numbers for each group of
steps. When a segment ends, as many steps as it has leave the memory; groups of them are compressed,
and the oldest groups are forgotten. A step reads compressed groups, memory and its own segment, at
distances counted in what stands there.

Memories are constants to the task's loss. What compresses learns from a loss of its own: the
segment's steps, in training, shall read of the compressed groups what they would have read of the
steps in them (or these shall be told from the groups). Nothing else learns from it.

Departures from the paper:
    - segments lie on a grid of each sequence's own steps, so that any cut of a stream gives the
      same; groups are whole groups of that grid;
    - memories begin empty, not as zeros that take weight;
    - layers normalise what they read, not what they return, and the last result is normalised;
    - compression by mean, maximum or a convolution without overlap; its dilated convolutions, its
      choice of the most used steps, and learning to compress from the task are left out;
    - two layers by default, where the paper stacks more, and a GELU between the feed-forward maps;
    - attention weights are never dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import model_validator
from torch import Tensor, nn
from torch.func import functional_call

from kt_forecast.config import Range, tunable
from kt_forecast.nn.feedforward import FeedForward
from kt_forecast.nn.rates import trailing
from kt_forecast.nn.relative import Grid, RelativeAttention
from kt_forecast.nn.streams import Span, streamed
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System


class CompressiveTransformerConfig(HeadsConfig):
    """Settings of `CompressiveTransformer`.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width``.
        segment: steps of a segment; ``rate`` must divide it.
        memory: steps before a segment that are kept as they are; ``rate`` must divide it.
        compressed: groups of older steps that are kept compressed.
        rate: steps of a group.
        compression: a group is the mean or the maximum of its steps, or a linear map of them.
        objective: what compression learns from: what attention reads of the groups, or whether the
            steps can be told from them.
        reconstruction: weight of that objective.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    even_heads: ClassVar[bool] = False

    layers: int = tunable(2, (1, 2, 4), gt=0)
    segment: int = tunable(64, (32, 64, 128), gt=0)
    memory: int = tunable(64, (32, 64, 128, 256), ge=0)
    compressed: int = tunable(32, (16, 32, 64, 128), ge=0)
    rate: int = tunable(4, (2, 4, 8), gt=0)
    compression: Literal["mean", "max", "convolution"] = tunable(
        "convolution", ("mean", "max", "convolution")
    )
    objective: Literal["attention", "steps"] = tunable("attention", ("attention", "steps"))
    reconstruction: float = 1.0
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.segment % self.rate or self.memory % self.rate:
            raise ValueError(
                f"rate must divide segment and memory, got rate={self.rate} "
                f"segment={self.segment} memory={self.memory}"
            )
        return self

    def is_short(self, span: Span) -> bool:
        """Return whether no segment has ended by the end of a pass: there are no groups then."""
        return span.high + span.length < self.segment


@dataclass(frozen=True)
class LayerState(State):
    """What a layer keeps; zero before the first step.

    Attributes:
        recent: the latest inputs: memory, and those of the open segment.
        compressed: groups older than the memory of the open segment.
    """

    recent: Float[Tensor, "batch kept width"]
    compressed: Float[Tensor, "batch slot width"]


@dataclass(frozen=True)
class CompressiveState(State):
    """What each layer keeps, and how many steps each row has seen."""

    position: Int[Tensor, " batch"]
    layers: tuple[LayerState, ...]


class Compression(nn.Module):
    """Makes one vector of each group of steps."""

    def __init__(self, config: CompressiveTransformerConfig) -> None:
        super().__init__()
        self.kind, self.rate = config.compression, config.rate
        learns = self.kind == "convolution" and config.compressed > 0
        inner = config.rate * config.width
        self.map = nn.Linear(inner, config.width) if learns else None
        back = learns and config.objective == "steps"
        self.back = nn.Linear(config.width, inner) if back else None

    def forward(
        self, steps: Float[Tensor, "batch step width"]
    ) -> Float[Tensor, "batch group width"]:
        """Return one vector a group."""
        groups = steps.unflatten(1, (-1, self.rate))
        if self.map is not None:
            return self.map(groups.flatten(2))
        return groups.mean(2) if self.kind == "mean" else groups.amax(2)


class Layer(nn.Module):
    """Attention over two memories and feed-forward, each added to the stream."""

    def __init__(self, config: CompressiveTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.attention = RelativeAttention(width, config.heads, norm=nn.LayerNorm(width))
        self.compression = Compression(config)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width, config.expansion * width, dropout=config.dropout)

    def init_state(self, batch: int) -> LayerState:
        """Return empty memories."""
        config, zeros = self.config, self.feed_norm.weight.new_zeros
        recent = zeros(batch, config.memory + config.segment - 1, config.width)
        return LayerState(recent, zeros(batch, config.compressed, config.width))

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: LayerState,
        visible: Bool[Tensor, "#batch segment length key"],
        grid: Grid,
    ) -> tuple[Float[Tensor, "batch time width"], LayerState, Float[Tensor, "batch time 1"] | None]:
        """Return the layer's result, its memories, and in training what compression has lost.

        Args:
            x: steps of the pass.
            state: memories before them.
            visible: which groups and steps each step reads.
            grid: where the segments lie; what stands before one is its memory.
        """
        joined = torch.cat([state.recent, x], 1)
        recent = trailing(joined, state.recent.shape[1], grid.span)
        # The open segment may have begun in an earlier pass.
        begun = state.recent.shape[1] - grid.back
        columns = replace(grid, back=grid.back + begun).columns(joined)[:, begun:]
        compressed, older, lost = state.compressed, None, None
        if self.config.compressed and not self.config.is_short(grid.span):
            there = self._there(grid)
            made = self.compression(columns[:, : grid.segments * grid.length].detach())
            made = made * there[..., None]
            groups = torch.cat([compressed, made.detach()], 1)
            apart = grid.length // self.config.rate
            at_segments = groups.unfold(1, self.config.compressed, apart).mT
            older = at_segments[:, :-1]
            span = grid.span
            ended = (span.before + span.count) // grid.length - span.before // grid.length
            compressed = at_segments[torch.arange(len(x), device=x.device), ended]
            if self.training and torch.is_grad_enabled() and self.compression.map is not None:
                lost = grid.steps(self._lost(columns, made, there, grid)[..., None])
        elif self.training:
            # Nothing to learn from, said by gradients of zero: workers agree on who has some.
            nothing = sum((p.sum() for p in self.compression.parameters()), x.new_zeros(()))
            lost = (0.0 * nothing).expand(*x.shape[:2], 1)
        x = x + self.dropout(self.attention(columns, visible, grid, older))
        return x + self.feed(self.feed_norm(x)), LayerState(recent, compressed), lost

    def _there(self, grid: Grid) -> Bool[Tensor, "#batch group"]:
        """Return which of the groups that leave the memory there are; others precede all steps."""
        groups = grid.segments * grid.length // self.config.rate
        number = torch.arange(groups, device=grid.span.before.device)
        return (grid.first - grid.back)[:, None] + number * self.config.rate >= 0

    def _lost(self, columns: Tensor, made: Tensor, there: Tensor, grid: Grid) -> Tensor:
        """Return, step by step, how far groups are from what they stand for; trains only them."""
        length, rate = grid.length, self.config.rate
        shape = (grid.segments, length)
        old = columns[:, : grid.segments * length].detach().unflatten(1, shape)
        known = there.repeat_interleave(rate, 1).unflatten(1, shape)
        if self.compression.back is not None:
            again = self.compression.back(made).unflatten(2, (rate, -1)).flatten(1, 2)
            return (again.unflatten(1, shape) - old).square().mean(-1) * known
        attention = self.attention
        with torch.no_grad():
            own = columns[:, grid.back :].detach().unflatten(1, shape)
            query = attention.split(attention.query(attention.norm(own)))
            wanted = self._read(query, old, known)
        groups = made.unflatten(1, (grid.segments, -1))
        found = self._read(query, groups, there.unflatten(1, (grid.segments, -1)))
        return (found - wanted).square().mean((2, 4)) * known.any(2, keepdim=True)

    def _read(self, query: Tensor, memory: Tensor, known: Tensor) -> Tensor:
        """Return what queries read of a memory by what it holds alone, through constant maps."""
        attention = self.attention
        constant = {name: p.detach() for name, p in attention.norm.named_parameters()}
        memory = functional_call(attention.norm, constant, (memory,))
        both = F.linear(memory, attention.key_value.weight.detach())
        key, value = (attention.split(half) for half in both.chunk(2, dim=-1))
        # A segment before which there is nothing reads anything, and its loss is not counted.
        known = (known | ~known.any(2, keepdim=True))[:, :, None, None]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=known)


class CompressiveTransformer(nn.Module):
    """Transformer with a memory and a compressed one; see `kt_forecast.nn.system.Mixer`.

    Attributes:
        auxiliary: what compression has lost; see `kt_forecast.nn.system.Auxiliary`.
    """

    auxiliary: Tensor | None = None

    def __init__(self, config: CompressiveTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers: Sequence[Layer] = nn.ModuleList(  # type: ignore[assignment]
            Layer(config) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def init_state(self, batch: int) -> CompressiveState:
        """Return empty memories."""
        position = torch.zeros(batch, dtype=torch.int64, device=self.norm.weight.device)
        return CompressiveState(position, tuple(layer.init_state(batch) for layer in self.layers))

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: CompressiveState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], CompressiveState | None]:
        """Let each step read its segment, the memory and the groups before it.

        Args:
            x: embedded steps, oldest first.
            state: what earlier passes left behind; None at the start.
            valid: False at padding.
            reset: True at the first step of a new sequence.

        Returns:
            One vector a step, and the state afterwards (None for a pass without ``state``).
        """
        # One more number a step holds what is lost there.
        y, after = streamed(self._run, self.init_state, F.pad(x, (0, 1)), state, valid, reset)
        if self.training and torch.is_grad_enabled():
            self.auxiliary = self.config.reconstruction * y[..., -1]
        return y[..., :-1], after

    def _run(
        self, x: Tensor, state: CompressiveState, span: Span
    ) -> tuple[Tensor, CompressiveState]:
        x, lost = x[..., :-1], x[..., -1:]
        config = self.config
        stops = torch.is_grad_enabled()
        grid = Grid.laid(span, config.segment, config.memory, stops=stops)
        grid = grid.trimmed() if config.is_short(span) else grid
        visible, kept = self._visible(grid), []
        for layer, before in zip(self.layers, state.layers, strict=True):
            x, after, more = layer(x, before, visible, grid)
            kept.append(after)
            lost = lost if more is None else lost + more
        after = CompressiveState(state.position + span.count, tuple(kept))
        return torch.cat([self.norm(x), lost], -1), after

    def _visible(self, grid: Grid) -> Tensor:
        """Return which groups, and which steps of memory and segment, each step reads."""
        slots, rate, device = self.config.compressed, self.config.rate, grid.span.before.device
        if self.config.is_short(grid.span):
            return grid.window(grid.back + grid.length)
        begin = grid.first[:, None] - grid.back
        begin = begin + torch.arange(grid.segments, device=device) * grid.length
        group = begin[..., None] + rate * (torch.arange(slots, device=device) - slots)
        groups = (group >= 0)[:, :, None].expand(-1, -1, grid.length, -1)
        return torch.cat([groups, grid.window(grid.back + grid.length)], -1)


SYSTEM = System(
    family="memory",
    config=CompressiveTransformerConfig,
    build=CompressiveTransformer,
    paper=Paper(
        title="Compressive Transformers for Long-Range Sequence Modelling",
        authors="Rae, Potapenko, Jayakumar, Hillier, Lillicrap",
        year=2020,
        url="https://arxiv.org/abs/1911.05507",
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
