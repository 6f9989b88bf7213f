"""Memory Transformer: a few learned tokens beside the steps, which every step reads in each layer.

As published the memory tokens stand before the sequence and read all of it, and every step reads
them in the next layer: so each step knows the whole sequence. Here memory tokens read only each
other (``memory="own"``), or a block of them stands before every few steps and reads what came
before it (``memory="blocks"``). ``published=True`` gives the published reading, to show what it
reveals; it may not be trained for knowledge tracing or for forecasts from every origin.

Departures from the paper:
    - memory tokens read no step that is later than a reader of theirs, as said above;
    - steps read earlier steps only, where the paper's encoder reads both ways;
    - rotary positions instead of absolute ones; memory tokens that read only each other have none;
    - two layers by default, where the paper stacks more, and normalised copies are read (pre-norm).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.errors import InputError
from kt_forecast.nn.feedforward import FeedForward
from kt_forecast.nn.prefix import Kept, PrefixAttention
from kt_forecast.nn.streams import Span, streamed
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

Number = TypeVar("Number", int, Tensor)


class MemoryTransformerConfig(HeadsConfig):
    """Settings of `MemoryTransformer`.

    Attributes:
        width: numbers in a step's vector.
        slots: memory tokens, or memory tokens of a block.
        memory: ``own``: memory tokens read each other; ``blocks``: a block before every ``every``
            steps reads what came before it.
        every: steps between two blocks.
        published: let memory tokens read the whole sequence, which leaks.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width`` into even sizes.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    slots: int = tunable(10, (4, 10, 20), ge=0)
    memory: Literal["own", "blocks"] = tunable("own", ("own", "blocks"))
    every: int = tunable(16, (8, 16, 32), gt=0)
    published: bool = False
    layers: int = tunable(2, (1, 2, 4), gt=0)
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if self.published:
            return "Memory Transformer as published (published=true) tells every step the whole"
        return ""


@dataclass(frozen=True)
class MemoryTransformerState(State):
    """Keys and values that each layer keeps, and how many steps each row has seen."""

    position: Int[Tensor, " batch"]
    layers: tuple[Kept, ...]


class Layer(nn.Module):
    """Attention and feed-forward, which steps and memory tokens share."""

    def __init__(self, config: MemoryTransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = PrefixAttention(config.width, config.heads)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_norm = nn.LayerNorm(config.width)
        inner = config.expansion * config.width
        self.feed = FeedForward(config.width, inner, dropout=config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        memory: Float[Tensor, "some slot width"],
        kept: Kept,
        span: Span,
    ) -> tuple[Float[Tensor, "batch time width"], Kept]:
        """Return the steps after reading memory and the steps up to them, and what to keep."""
        read, kept = self.attention(self.attention_norm(x), self.attention_norm(memory), kept, span)
        return self.fed(x, read), kept

    def remembered(
        self, memory: Float[Tensor, "some slot width"], x: Float[Tensor, "batch time width"] | None
    ) -> Float[Tensor, "each slot width"]:
        """Return the memory tokens after reading each other and, if it is given, all of ``x``."""
        if x is not None:
            memory = memory.expand(len(x), -1, -1)
        rows = self.attention_norm(memory)
        every = rows if x is None else torch.cat([rows, self.attention_norm(x)], 1)
        return self.fed(memory, self.attention.unplaced(rows, every))

    def fed(
        self, x: Float[Tensor, "some time width"], read: Float[Tensor, "some time width"]
    ) -> Float[Tensor, "some time width"]:
        """Return the layer's result from its input and what attention read."""
        x = x + self.dropout(read)
        return x + self.feed(self.feed_norm(x))


class MemoryTransformer(nn.Module):
    """Decoder with memory tokens; see `kt_forecast.nn.system.Mixer`."""

    def __init__(self, config: MemoryTransformerConfig) -> None:
        super().__init__()
        self.leak = config.leak
        self.every = config.every if config.memory == "blocks" and not config.published else None
        self.memory = nn.Parameter(0.02 * torch.randn(1, config.slots, config.width))
        self.layers: Sequence[Layer] = nn.ModuleList(  # type: ignore[assignment]
            Layer(config) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def init_state(self, batch: int) -> MemoryTransformerState:
        """Return empty caches.

        Raises:
            InputError: the settings read later steps, so that nothing can be streamed.
        """
        if self.leak:
            raise InputError(f"{self.leak}; accepted for a stream is published = false")
        return self._nothing(batch)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: MemoryTransformerState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], MemoryTransformerState | None]:
        """Let each step read the memory and the steps up to it.

        Args:
            x: embedded steps, oldest first.
            state: caches of the steps before; None at the start.
            valid: False at padding.
            reset: True at the first step of a new sequence.

        Returns:
            One vector a step, and the caches afterwards (None for a pass without ``state``).
        """
        run = self._run if self.every is None else self._among_blocks
        return streamed(run, self._nothing, x, state, valid, reset)

    def _nothing(self, batch: int) -> MemoryTransformerState:
        count = torch.zeros(batch, dtype=torch.int64, device=self.memory.device)
        caches = tuple(layer.attention.init_state(batch) for layer in self.layers)
        return MemoryTransformerState(count, caches)

    def _run(
        self, x: Tensor, state: MemoryTransformerState, span: Span
    ) -> tuple[Tensor, MemoryTransformerState]:
        """Run over steps beside memory tokens that stand outside the sequence."""
        memory: Tensor = self.memory
        caches = []
        for i, (layer, cache) in enumerate(zip(self.layers, state.layers, strict=True)):
            y, kept = layer(x, memory, cache, span)
            if self.memory.numel() and i + 1 < len(self.layers):
                memory = layer.remembered(memory, x if self.leak else None)
            x = y
            caches.append(kept)
        return self.norm(x), MemoryTransformerState(state.position + span.count, tuple(caches))

    def _among_blocks(
        self, x: Tensor, state: MemoryTransformerState, span: Span
    ) -> tuple[Tensor, MemoryTransformerState]:
        """Run over steps and the blocks of memory tokens among them, as one sequence."""
        assert self.every is not None  # noqa: S101 - who calls this has looked
        slots, period = self.memory.shape[1], self.every + self.memory.shape[1]
        before, after = self._longer(span.before), self._longer(span.before + span.count)
        count = after - before
        low, high = self._longer(span.low), self._longer(span.high)
        if span.uniform:
            length, whole = self._longer(span.low + span.length) - low, True
        else:
            length = int(count.max())
            whole = bool((count == length).all())
        longer = Span(before, count, length, low, high, whole=whole)
        place = longer.position % period
        step = longer.position // period * self.every + place - slots - span.before[:, None]
        step = step.clamp(0, span.length - 1)[..., None].expand(-1, -1, x.shape[2])
        block = self.memory[0, place.clamp_max(slots - 1)] if slots else x.gather(1, step)
        every = torch.where((place < slots)[..., None], block, x.gather(1, step))
        caches, none = [], self.memory[:, :0]
        for layer, cache in zip(self.layers, state.layers, strict=True):
            every, kept = layer(every, none, cache, longer)
            caches.append(kept)
        own = self._longer(span.position + 1) - 1 - before[:, None]
        own = own.clamp_max(length - 1)[..., None].expand(-1, -1, x.shape[2])
        y = self.norm(every.gather(1, own))
        return y, MemoryTransformerState(state.position + span.count, tuple(caches))

    def _longer(self, steps: Number) -> Number:
        """Return how many steps and memory tokens there are when there are ``steps`` steps."""
        assert self.every is not None  # noqa: S101 - who calls this has looked
        return steps + self.memory.shape[1] * ((steps + self.every - 1) // self.every)


SYSTEM = System(
    family="memory",
    config=MemoryTransformerConfig,
    build=MemoryTransformer,
    paper=Paper(
        title="Memory Transformer",
        authors="Burtsev, Kuratov, Peganov, Sapunov",
        year=2020,
        url="https://arxiv.org/abs/2006.11527",
    ),
    promises=Promises(
        causality="step by change",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=2, training_bytes=1, step_flops=1, state_bytes=1),
    ),
    tracing={"scheme": "shifted"},
)
