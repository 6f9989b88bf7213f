"""Titans: a memory whose weights learn from each step as it is read, beside attention.

``form`` says how the memory is used. ``lmm``: alone. ``mag``: attention over a window of steps,
and the memory's answer gates what it read. ``mal``: the memory first, attention over a window of
what it answered second. ``mac``: attention within a segment, over the segment's steps and what the
memory of earlier segments recalls for each of them; the memory learns what attention read, and its
answer gates that. A few learned vectors, the persistent memory, are read by attention at every step
and learned by the memory before the first.

As published ``mac`` reveals the future twice: steps attend to what is recalled for later steps of
their segment, and are answered by a memory that has learned the whole segment. Here a step attends
to what is recalled for steps up to itself and is answered by its own step's memory. ``published``
gives the published form, to show what it reveals; it may not be trained for knowledge tracing or
for forecasts from every origin.

Departures from the paper:
    - ``mac`` as said above, and without convolution before its memory, whose chunks are the
      segments;
    - the memory is a plain network with SiLU between its matrices, one for each head, without the
      residual and norm that public code puts into it;
    - forgetting and lasting are logistic in the step, and so is the step size, up to a share of
      ``rate`` that keeps a chunk's gradients, which are taken at the same weights, and their
      momentum from overshooting; the paper leaves this open; the squared distance has its factor
      of two;
    - what the memory answers gates attention by a logistic of its norm, one of several readings of
      the paper's gate;
    - attention of ``mal`` reads the persistent memory itself, not what the memory answers to it;
    - rotary positions, of which the paper says nothing, two layers, and normalised copies are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import model_validator
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.errors import InputError
from kt_forecast.nn.attention import Angles, Rotary, turned
from kt_forecast.nn.descent import Course, joined
from kt_forecast.nn.feedforward import FeedForward
from kt_forecast.nn.neural_memory import Given, Memory, NeuralMemory, settled
from kt_forecast.nn.prefix import PrefixAttention
from kt_forecast.nn.segments import Laid, Segments, chosen
from kt_forecast.nn.streams import Span, streamed
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

FORMS = ("mag", "mac", "mal", "lmm")


class TitansConfig(HeadsConfig):
    """Settings of `Titans`.

    Attributes:
        width: numbers in a step's vector.
        form: how memory and attention are joined: ``mag``, ``mac``, ``mal`` or ``lmm``.
        slots: vectors of the persistent memory.
        chunk: steps whose gradients are taken at the same weights, and which share ``rate``; a
            segment of ``mac``. The longer, the fewer passes one after the other, and the later a
            step's gradient counts what the steps before it have taught.
        window: how many steps back attention of ``mag`` and ``mal`` reads, the step included.
        memory_layers: matrices of a memory.
        memory_expansion: numbers between two matrices per number of a key.
        kernel: steps that a key, value or query of the memory is mixed of.
        rate: largest step size of the memory, which the steps of a chunk share.
        published: let ``mac`` read later steps of its segment, which leaks.
        layers: mixing and feed-forward pairs.
        heads: memories and attention heads; must divide ``width`` into even sizes.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    form: Literal["mag", "mac", "mal", "lmm"] = tunable("mag", FORMS)
    slots: int = tunable(4, (0, 4, 8), ge=0)
    chunk: int = tunable(64, (16, 32, 64, 128), gt=0)
    window: int = tunable(32, (16, 32, 64), gt=0)
    memory_layers: int = tunable(2, (1, 2), gt=0)
    memory_expansion: int = tunable(2, (1, 2, 4), gt=0)
    kernel: int = tunable(4, (1, 4), gt=0)
    rate: float = tunable(0.5, Range(low=0.05, high=1.0, log=True), gt=0.0)
    published: bool = False
    layers: int = tunable(2, (1, 2, 4), gt=0)
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.published and self.form != "mac":
            raise ValueError(f"only form='mac' leaks as published, got form={self.form!r}")
        return self

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if self.published:
            return "Titans MAC as published (published=true) reads later steps of its segment"
        return ""


@dataclass(frozen=True)
class LayerState(State):
    """What a layer keeps.

    Attributes:
        memory: the memory in the middle of its learning.
        mixed: the latest steps, as the memory's convolution reads them.
        attended: keys and values of a window, or of a segment's steps and what was recalled.
    """

    memory: Memory
    mixed: Float[Tensor, "batch _ _"]
    attended: Float[Tensor, "batch _ _"] | None


@dataclass(frozen=True)
class TitansState(State):
    """What each layer keeps, and how many steps each row has seen."""

    position: Int[Tensor, " batch"]
    layers: tuple[LayerState, ...]


class Gated(nn.Module):
    """What attention read, normalised and gated by what the memory answered."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read_norm = nn.LayerNorm(width)
        self.answer_norm = nn.LayerNorm(width)

    def forward(
        self, read: Float[Tensor, "batch time width"], answer: Float[Tensor, "batch time width"]
    ) -> Float[Tensor, "batch time width"]:
        """Return the product of the one and the other's gate."""
        return self.read_norm(read) * self.answer_norm(answer).sigmoid()


class Mixing(nn.Module):
    """Memory alone, beside attention over a window, or before it."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.form = config.form
        self.rows = nn.Parameter(0.02 * torch.randn(1, config.slots, config.width))
        self.memory = _memory(config, config.kernel)
        attends = config.form != "lmm"
        self.attention = (
            PrefixAttention(config.width, config.heads, window=config.window) if attends else None
        )
        self.gated = Gated(config.width) if config.form == "mag" else None
        self.between = nn.LayerNorm(config.width) if config.form == "mal" else None

    def init_state(self, batch: int) -> LayerState:
        """Return a state of zeros."""
        attention = self.attention
        attended = None if attention is None else attention.init_state(batch)
        return LayerState(*self.memory.init_state(batch), attended)

    def forward(
        self, x: Float[Tensor, "batch time width"], state: LayerState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], LayerState]:
        """Return what to add to the steps, and what to keep."""
        y, memory, mixed = self.memory(x, self.rows, state.memory, state.mixed, span)
        attended = state.attended
        if self.attention is not None and attended is not None:
            source = x if self.between is None else self.between(x + y)
            read, attended = self.attention(source, self.rows, attended, span)
            y = y + read if self.gated is None else self.gated(read, y)
        return y, LayerState(memory, mixed, attended)


class Context(nn.Module):
    """Attention over a segment and what the memory recalls for it; the memory learns the result.

    A step's slot holds its own key and value, and then those of what was recalled for it.
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.width, self.heads = config.width, config.heads
        self.size, self.published = config.width // config.heads, config.published
        self.rows = nn.Parameter(0.02 * torch.randn(1, config.slots, config.width))
        self.memory = _memory(config, 1)
        self.recall = nn.Linear(config.width, config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.rotary = Rotary(self.size)
        self.gated = Gated(config.width)

    def init_state(self, batch: int) -> LayerState:
        """Return a state of zeros."""
        slots = self.out.weight.new_zeros(batch, self.memory.chunk, 4 * self.width)
        return LayerState(*self.memory.init_state(batch), slots)

    def forward(
        self, x: Float[Tensor, "batch time width"], state: LayerState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], LayerState]:
        """Return what to add to the steps, and what to keep."""
        assert state.attended is not None  # noqa: S101 - `init_state` has put it there
        memory, mixed = self.memory.begun(state.memory, state.mixed, self.rows, span)
        segments, slots, found = Segments(span, self.memory.chunk), state.attended, []
        row_key, row_value = (self._split(t) for t in self.key_value(self.rows).chunk(2, -1))
        laid = segments.laid(self._prepared(x, row_key, span))
        column = torch.arange(laid.low, laid.low + laid.x.shape[2], device=x.device)
        angles = self.rotary.angles(column[None], x.dtype)
        earlier = torch.arange(laid.low + len(column), device=x.device) <= column[:, None]
        known = torch.ones_like(earlier) if self.published else earlier
        hidden = ~torch.cat([earlier, known], 1)
        for piece in laid.groups(1):
            near, left = self._offered(piece, memory, slots, angles)
            slots = torch.cat([slots[:, : piece.low], left, slots[:, piece.low + len(column) :]], 1)
            read = self._attended(near, slots[:, : piece.low + len(column)], row_value, hidden)
            given, _ = self.memory.given(read, mixed, Span.beginning(read))
            shown = replace(piece, x=given[:, None])
            with torch.autocast(x.device.type, enabled=False):
                parts = self.memory.apart(shown)
                course, memory = self.memory.moved(memory, parts, shown)
            found.append((read, parts, course, memory))
            if piece.full:
                ended = None if piece.ended is None else piece.ended[:, 0]
                slots = chosen(ended, torch.zeros_like(slots), slots)
        reads = torch.stack([read for read, _, _, _ in found], 1)
        answers = self._answers(found).to(reads.dtype)
        read, answer = segments.lifted(reads), segments.lifted(answers)
        memory, mixed = settled((memory, mixed), (state.memory, state.mixed), span)
        y = self.gated(read, self.memory.answered(answer, read))
        return y, LayerState(memory, mixed, slots)

    def _prepared(self, x: Tensor, row_key: Tensor, span: Span) -> Tensor:
        """Return, side by side, all that steps are known to ask and show before they are read.

        What they ask the memory by; their rotated queries; their rotated keys, and values; their
        logits to the persistent memory.
        """
        column = (span.position[:1] if span.uniform else span.position) % self.memory.chunk
        angles = self.rotary.angles(column, x.dtype)
        query = self._split(self.query(x))
        parts = (
            F.silu(self.recall(x)),
            self._merged(turned(query, angles)),
            self._placed(x, angles),
            self._merged(query @ row_key.mT),
        )
        return torch.cat(parts, -1)

    def _offered(
        self, piece: Laid, memory: Memory, slots: Tensor, angles: Angles
    ) -> tuple[Tensor, Tensor]:
        """Return what a segment's steps ask by, and their slots with what is recalled for them."""
        width = self.width
        ask, near, own, rows = piece.x[:, 0].split(
            [width, width, 2 * width, piece.x.shape[-1] - 4 * width], -1
        )
        left = torch.cat([own, self._placed(self.memory.recalled(memory.at, ask), angles)], -1)
        if piece.real is not None:
            before = slots[:, piece.low : piece.low + left.shape[1]]
            left = torch.where(piece.real[:, 0, :, None], left, before)
        return torch.cat([near, rows], -1), left

    def _attended(self, near: Tensor, slots: Tensor, row_value: Tensor, hidden: Tensor) -> Tensor:
        """Let steps read the persistent memory, their segment, and what is recalled for it."""
        query, to_rows = near.split([self.width, near.shape[-1] - self.width], -1)
        steps, facts = slots.chunk(2, -1)
        key, value = (self._split(t) for t in torch.cat([steps, facts], 1).chunk(2, -1))
        logits = (self._split(query) @ key.mT).masked_fill(hidden, float("-inf"))
        rows = to_rows.unflatten(-1, (self.heads, self.rows.shape[1])).transpose(1, 2)
        weight = (torch.cat([rows, logits], -1) * self.size**-0.5).softmax(-1)
        at = rows.shape[-1]
        return self.out(self._merged(weight[..., :at] @ row_value + weight[..., at:] @ value))

    def _answers(self, found: list[tuple[Tensor, Given, Course, Memory]]) -> Tensor:
        """Return what each step's own memory answers; its segment's last one, as published."""
        with torch.autocast(found[0][0].device.type, enabled=False):
            if self.published:
                answers = (
                    self.memory.asked(memory.weight, parts.query[:, 0])
                    for _, parts, _, memory in found
                )
                return torch.cat(tuple(answers), 1)
            return self.memory.read(
                joined([course for _, _, course, _ in found]),
                Given.joined([parts for _, parts, _, _ in found]),
            )

    def _placed(self, x: Tensor, angles: Angles) -> Tensor:
        """Return rotated keys, and values."""
        key, value = self.key_value(x).chunk(2, -1)
        return torch.cat([self._merged(turned(self._split(key), angles)), value], -1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.size)).transpose(1, 2)

    def _merged(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(-2)


class Layer(nn.Module):
    """Mixing and feed-forward, each added to a layer-normalised reading of the stream."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.mixing_norm = nn.LayerNorm(config.width)
        self.mixing = Context(config) if config.form == "mac" else Mixing(config)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_norm = nn.LayerNorm(config.width)
        inner = config.expansion * config.width
        self.feed = FeedForward(config.width, inner, dropout=config.dropout)

    def forward(
        self, x: Float[Tensor, "batch time width"], state: LayerState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], LayerState]:
        """Return the steps with what was added to them, and what to keep."""
        mixed, state = self.mixing(self.mixing_norm(x), state, span)
        x = x + self.dropout(mixed)
        return x + self.feed(self.feed_norm(x)), state


class Titans(nn.Module):
    """Decoder with memories that learn as they read; see `kt_forecast.nn.system.Mixer`."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.leak = config.leak
        self.layers: Sequence[Layer] = nn.ModuleList(  # type: ignore[assignment]
            Layer(config) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def init_state(self, batch: int) -> TitansState:
        """Return a state of zeros: the learned first weights take the place of a first memory.

        Raises:
            InputError: the settings read later steps, so that nothing can be streamed.
        """
        if self.leak:
            raise InputError(f"{self.leak}; accepted for a stream is published = false")
        return self._nothing(batch)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: TitansState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], TitansState | None]:
        """Let each step teach the memories and read them.

        Args:
            x: embedded steps, oldest first.
            state: what earlier steps left behind; None at the start.
            valid: False at padding.
            reset: True at the first step of a new sequence.

        Returns:
            One vector a step, and the state afterwards (None for a pass without ``state``).
        """
        return streamed(self._run, self._nothing, x, state, valid, reset)

    def _nothing(self, batch: int) -> TitansState:
        count = torch.zeros(batch, dtype=torch.int64, device=self.norm.weight.device)
        return TitansState(count, tuple(layer.mixing.init_state(batch) for layer in self.layers))

    def _run(self, x: Tensor, state: TitansState, span: Span) -> tuple[Tensor, TitansState]:
        kept = []
        for layer, before in zip(self.layers, state.layers, strict=True):
            x, after = layer(x, before, span)
            kept.append(after)
        return self.norm(x), TitansState(state.position + span.count, tuple(kept))


def _memory(config: TitansConfig, kernel: int) -> NeuralMemory:
    return NeuralMemory(
        config.width,
        config.heads,
        layers=config.memory_layers,
        expansion=config.memory_expansion,
        chunk=config.chunk,
        kernel=kernel,
        rate=config.rate,
    )


SYSTEM = System(
    family="memory",
    config=TitansConfig,
    build=Titans,
    paper=Paper(
        title="Titans: Learning to Memorize at Test Time",
        authors="Behrouz, Zhong, Mirrokni",
        year=2025,
        url="https://arxiv.org/abs/2501.00663",
    ),
    promises=Promises(
        causality="step by change",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=1, training_bytes=1, step_flops=0, state_bytes=0),
    ),
    tracing={"scheme": "shifted"},
)
