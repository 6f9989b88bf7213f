"""Recurrent Memory Transformer: what one segment writes into a few tokens, the next one reads.

A sequence is cut into segments of equal length. In front of each stand memory tokens, which all
its steps read; behind each stand the same tokens again, which read the whole segment and become
the memory of the next. So a history of any length is carried by a few vectors. A segment writes
only when it is full, and no step reads what its own segment writes.

Departures from the paper:
    - a network without pretrained weights, two layers by default, and normalised copies are read
      (pre-norm);
    - rotary positions within the segment instead of absolute ones; all tokens that are read stand
      at one place, all that are written at another;
    - tokens that are read, and those that are written, see each other without order, as in the
      authors' own language model; their later wrapper of public models orders them;
    - gradients reach through all segments of a pass; whoever trains on carried states cuts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attention import Angles, Rotary, turned
from kt_forecast.nn.feedforward import FeedForward
from kt_forecast.nn.segments import Piece, Segments, chosen
from kt_forecast.nn.streams import Span, streamed
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System


class RMTConfig(HeadsConfig):
    """Settings of `RMT`.

    Attributes:
        width: numbers in a step's vector.
        segment: steps of a segment.
        slots: memory tokens.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width`` into even sizes.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    segment: int = tunable(32, (16, 32, 64, 128), gt=0)
    slots: int = tunable(8, (4, 8, 16), ge=0)
    layers: int = tunable(2, (1, 2, 4), gt=0)
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


Kept = Float[Tensor, "batch kept both"]
"""Rotated keys and values of a segment, side by side: tokens that are read, then its steps."""


@dataclass(frozen=True)
class RMTState(State):
    """What is carried over a stream.

    Attributes:
        position: steps that each row has seen.
        memory: what the last full segment wrote; zero in the first segment.
        layers: what each layer keeps of the open segment; zero where there is no step yet.
    """

    position: Int[Tensor, " batch"]
    memory: Float[Tensor, "batch slot width"]
    layers: tuple[Kept, ...]


class Layer(nn.Module):
    """Attention and feed-forward, which steps and memory tokens share."""

    def __init__(self, config: RMTConfig) -> None:
        super().__init__()
        self.heads, self.size = config.heads, config.width // config.heads
        self.attention_norm = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_norm = nn.LayerNorm(config.width)
        inner = config.expansion * config.width
        self.feed = FeedForward(config.width, inner, dropout=config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        before: Float[Tensor, "batch before both"],
        angles: Angles,
        visible: Bool[Tensor, "time all"] | None,
        there: tuple[Bool[Tensor, "batch time"], Float[Tensor, "batch time both"]] | None = None,
        rest: Float[Tensor, "batch rest both"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], Float[Tensor, "batch kept both"]]:
        """Return tokens after reading what stands before and among them, and all that is left.

        Args:
            x: tokens.
            before: keys and values of tokens before them.
            angles: of each token's position in the segment.
            visible: which of the tokens before and of its own each reads; None for all.
            there: where tokens are real, and what stands in the place of those that are not.
            rest: keys and values that stand behind them, which none reads.
        """
        h = self.attention_norm(x)
        query = turned(self._split(self.query(h)), angles)
        key, value = self.key_value(h).chunk(2, -1)
        left = torch.cat([self._joined(turned(self._split(key), angles)), value], -1)
        if there is not None:
            left = torch.where(there[0][..., None], left, there[1])
        kept = torch.cat([before, left] if rest is None else [before, left, rest], 1)
        seen = kept[:, : before.shape[1] + x.shape[1]]
        key, value = (self._split(t) for t in seen.chunk(2, -1))
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        x = x + self.dropout(self.out(self._joined(read)))
        return x + self.feed(self.feed_norm(x)), kept

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.size)).transpose(1, 2)

    def _joined(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(-2)


class RMT(nn.Module):
    """Decoder over segments with carried memory; see `kt_forecast.nn.system.Mixer`."""

    def __init__(self, config: RMTConfig) -> None:
        super().__init__()
        self.segment, self.width = config.segment, config.width
        self.memory = nn.Parameter(0.02 * torch.randn(1, config.slots, config.width))
        self.layers: Sequence[Layer] = nn.ModuleList(  # type: ignore[assignment]
            Layer(config) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.rotary = Rotary(config.width // config.heads)

    def init_state(self, batch: int) -> RMTState:
        """Return a state of zeros: the learned memory takes the place of a first one."""
        zeros, slots = self.norm.weight.new_zeros, self.memory.shape[1]
        kept = zeros(batch, slots + self.segment, 2 * self.width)
        return RMTState(
            position=torch.zeros(batch, dtype=torch.int64, device=kept.device),
            memory=zeros(batch, slots, self.width),
            layers=tuple(kept for _ in self.layers),
        )

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: RMTState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], RMTState | None]:
        """Let each step read its segment up to itself, and what earlier segments wrote.

        Args:
            x: embedded steps, oldest first.
            state: what earlier steps left behind; None at the start.
            valid: False at padding.
            reset: True at the first step of a new sequence.

        Returns:
            One vector a step, and the state afterwards (None for a pass without ``state``).
        """
        return streamed(self._run, self.init_state, x, state, valid, reset)

    def _run(self, x: Tensor, state: RMTState, span: Span) -> tuple[Tensor, RMTState]:
        segments = Segments(span, self.segment)
        first = (state.position < self.segment)[:, None, None]
        memory, layers = torch.where(first, self.memory, state.memory), state.layers
        written, pieces = state.memory, []
        layout = self._layout(x) if span.length >= self.segment else None
        for piece in segments.cut(x):
            if layout is not None and piece.real is None and piece.low == 0 and piece.full:
                y, memory = self._whole(memory, piece, layout)
                written, layers = memory, tuple(torch.zeros_like(kept) for kept in layers)
                pieces.append(y)
                continue
            if piece.low == 0:
                layers = self._opened(memory, layers, piece)
            y, layers = self._stepped(layers, piece)
            if piece.full:
                memory, written, layers = self._closed(memory, written, layers, piece)
            pieces.append(y)
        after = RMTState(state.position + span.count, written, layers)
        return self.norm(segments.paste(pieces)), after

    def _layout(self, x: Tensor) -> tuple[Angles, Tensor]:
        """Return where the tokens of a whole segment stand, and which of them each reads."""
        slots, size = self.memory.shape[1], self.segment
        place = torch.arange(size + 2 * slots, device=x.device)
        visible = place <= place[:, None].clamp_min(slots - 1)
        visible |= place[:, None] >= slots + size
        return self._angles((place - slots + 1).clamp(0, size + 1), x), visible

    def _angles(self, place: Tensor, x: Tensor) -> Angles:
        return self.rotary.angles(place[None], x.dtype)

    def _whole(
        self, memory: Tensor, piece: Piece, layout: tuple[Angles, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Run a segment that is there from end to end, with both sets of tokens, in one pass.

        The same as opening it, its steps, and closing it, by a third of the operations.
        """
        slots = memory.shape[1]
        x = torch.cat([memory, piece.x, memory], 1)
        nothing = x.new_zeros(len(x), 0, 2 * self.width)
        for layer in self.layers:
            x, _ = layer(x, nothing, *layout)
        _, y, new = x.split([slots, self.segment, slots], 1)
        return y, self.norm(new)

    def _opened(self, memory: Tensor, layers: tuple[Kept, ...], piece: Piece) -> tuple[Kept, ...]:
        """Put what the tokens that are read leave into every layer."""
        slots, kept = memory.shape[1], []
        place = torch.zeros(slots, dtype=torch.int64, device=memory.device)
        angles = self._angles(place, memory)
        for layer, old in zip(self.layers, layers, strict=True):
            memory, new = layer(memory, old[:, :0], angles, None, rest=old[:, slots:])
            kept.append(chosen(piece.begun(), new, old))
        return tuple(kept)

    def _stepped(self, layers: tuple[Kept, ...], piece: Piece) -> tuple[Tensor, tuple[Kept, ...]]:
        """Run the steps of a piece through every layer."""
        x, kept, slots = piece.x, [], self.memory.shape[1]
        column = torch.arange(piece.low, piece.high, device=x.device)
        angles, visible = self._angles(column + 1, x), None
        if x.shape[1] > 1:
            visible = torch.arange(slots + piece.high, device=x.device) <= slots + column[:, None]
        sizes = [slots + piece.low, piece.high - piece.low, self.segment - piece.high]
        for layer, old in zip(self.layers, layers, strict=True):
            before, own, rest = old.split(sizes, 1)
            there = None if piece.real is None else (piece.real, own)
            x, new = layer(x, before, angles, visible, there, rest)
            kept.append(new)
        return x, tuple(kept)

    def _closed(
        self, memory: Tensor, written: Tensor, layers: tuple[Kept, ...], piece: Piece
    ) -> tuple[Tensor, Tensor, tuple[Kept, ...]]:
        """Write a new memory where the segment is full, and forget the segment."""
        new, rows = memory, piece.ended()
        place = torch.full(
            memory.shape[1:2], self.segment + 1, dtype=torch.int64, device=memory.device
        )
        angles = self._angles(place, memory)
        for layer, kept in zip(self.layers, layers, strict=True):
            new, _ = layer(new, kept, angles, None)
        new = self.norm(new)
        forgotten = tuple(chosen(rows, torch.zeros_like(kept), kept) for kept in layers)
        return chosen(rows, new, memory), chosen(rows, new, written), forgotten


SYSTEM = System(
    family="memory",
    config=RMTConfig,
    build=RMT,
    paper=Paper(
        title="Recurrent Memory Transformer",
        authors="Bulatov, Kuratov, Burtsev",
        year=2022,
        url="https://arxiv.org/abs/2207.06881",
    ),
    promises=Promises(
        causality="step",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=1, training_bytes=1, step_flops=0, state_bytes=0),
    ),
    tracing={"scheme": "shifted"},
)
