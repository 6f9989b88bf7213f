"""Longformer: a window of the latest steps, wider in every layer, and a few steps that all read.

Some heads of the upper layers look back in strides, which reaches further for the same cost. A few
steps at fixed places are global: all later steps read them, and they read with maps of their own
all steps up to themselves. As published global steps read the whole sequence and all steps read
them, so that after two layers each step knows the whole. ``published=True`` gives that reading, to
show what it reveals; it may not be trained for knowledge tracing or for forecasts from every
origin.

Departures from the paper:
    - global steps read earlier steps only, and only later steps read them, as said above; they
      stand at fixed places, since what a sequence holds later may not choose them;
    - windows look back only, also in the published form here: the paper's language model;
    - rotary positions instead of learned ones; two layers by default, and normalised copies are
      read (pre-norm);
    - half of the heads of the upper layers look back in strides, where the paper has two of them;
    - window sizes double from layer to layer and sequences are as long as they are, where the paper
      raises both in stages of the training.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attend import attend
from kt_forecast.nn.heads import Heads, Kept, OfHeads, begins, joined
from kt_forecast.nn.rates import trailing
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System
from kt_forecast.nn.windowed import Beside, in_phase, in_phases, phases, windowed


class LongformerConfig(HeadsConfig):
    """Settings of `longformer`.

    Attributes:
        window: steps that the lowest layer reads, the own one included; each layer above doubles
            it.
        dilation: strides in which half of the heads above the lowest layer look back.
        tokens: global steps.
        spacing: steps from one of them to the next; the first step of a sequence is one.
        published: let global steps read the whole sequence, which leaks.
        layers: attention and feed-forward pairs.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    window: int = tunable(32, (16, 32, 64, 128), gt=0)
    dilation: int = tunable(2, (1, 2, 4), gt=0)
    tokens: int = tunable(2, (0, 2, 8), ge=0)
    spacing: int = tunable(16, (4, 16, 64), gt=0)
    published: bool = False
    layers: int = tunable(2, (1, 2, 4), gt=0)
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if self.published:
            return "Longformer as published (published=true) lets global steps read the whole"
        return ""


@dataclass(frozen=True)
class LongformerState(State):
    """What one layer keeps: rotated keys and values, side by side.

    Attributes:
        near: of the latest steps, oldest first.
        tokens: of the global steps, as all others read them.
        early: of all steps up to the last global one, as global steps read them.
    """

    near: Kept
    tokens: Kept
    early: Kept


class Looking(NamedTuple):
    """Heads that look back alike."""

    heads: slice
    dilation: int


class LocalGlobal(Heads):
    """Attention to a window and to global steps; see `kt_forecast.nn.stack.Mixing`."""

    def __init__(self, config: LongformerConfig, layer: int) -> None:
        super().__init__(config.width, config.heads)
        self.window, self.spacing = config.window << layer, config.spacing
        self.tokens, self.published = config.tokens, config.published
        near = config.heads - config.heads // 2 if layer and config.dilation > 1 else config.heads
        self.looking = [Looking(slice(0, near), 1)]
        if near < config.heads:
            self.looking.append(Looking(slice(near, None), config.dilation))
        self.of_tokens = Heads(config.width, config.heads) if config.tokens else None
        if self.of_tokens is not None:
            self.of_tokens.load_state_dict(self.state_dict(), strict=False)
            del self.of_tokens.out  # what they read goes out with what all others read

    def init_state(self, batch: int) -> LongformerState:
        """Return a state without steps."""
        back = (self.window - 1) * max(dilation for _, dilation in self.looking)
        early = (self.tokens - 1) * self.spacing + 1 if self.tokens else 0
        return LongformerState(*(self.kept(batch, n) for n in (back, self.tokens, early)))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: LongformerState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], LongformerState]:
        """Return what each step read, and what is kept after the last."""
        query, key, value = self.mapped(x, span)
        new, near, before = self.beside(key, value), state.near, None
        if not span.ends:
            both = torch.cat([near, new], 1)
            near = trailing(both, state.near.shape[1], span)
            if not begins(span):
                (key, value), before = self.halves(both), span.before
        if self.of_tokens is None:
            parts = [
                attend(
                    query[:, at.heads],
                    key[:, at.heads],
                    value[:, at.heads],
                    self.window,
                    dilation=at.dilation,
                    before=before,
                )
                for at in self.looking
            ]
            y = joined(torch.cat(parts, 1))
            return self.out(y), LongformerState(near, state.tokens, state.early)
        place = span.position
        number = torch.where(place % self.spacing == 0, place // self.spacing, self.tokens)
        tokens = written(state.tokens, new, number, span)
        parts = [self._beside(at, query, key, value, tokens, before, span) for at in self.looking]
        y, early = joined(torch.cat(parts, 1)), state.early
        if span.low < early.shape[1]:
            told = self.of_tokens.told(x, span)
            early = written(early, told, place, span)
            y = self._read_by_tokens(self.of_tokens, y, x, told if self.published else early, span)
        return self.out(y), LongformerState(near, tokens, early)

    def _beside(
        self,
        at: Looking,
        query: OfHeads,
        key: OfHeads,
        value: OfHeads,
        tokens: Kept,
        before: Int[Tensor, " batch"] | None,
        span: Span,
    ) -> Float[Tensor, "batch some time size"]:
        """Read the window and, in the same softmax, the global steps that stand outside it."""
        heads, dilation = at
        query, key, value = query[:, heads], key[:, heads], value[:, heads]
        token = torch.arange(self.tokens, device=query.device) * self.spacing
        position = span.position[:1] if span.uniform else span.position
        ago = position[:, None, :, None] - token
        near = (ago >= 0) & (ago % dilation == 0) & (ago < self.window * dilation)
        there = token < span.count[:, None, None, None] if self.published else ago >= 0
        row_key, row_value = (t[:, heads] for t in self.halves(tokens))
        seen = (there & ~near).expand(len(query), -1, -1, -1)
        if dilation == 1:
            beside = Beside(row_key, row_value, seen)
            return windowed(query, key, value, self.window, before=before, beside=beside)
        row_key, row_value = (t.repeat_interleave(dilation, 0) for t in (row_key, row_value))
        beside = Beside(row_key, row_value, phases(seen, dilation))
        q, k, v = (phases(t, dilation) for t in (query, key, value))
        before = in_phases(before, dilation)
        y = windowed(q, k, v, self.window, before=before, beside=beside)
        return in_phase(y, dilation, span.length)

    def _read_by_tokens(
        self, of_tokens: Heads, y: Tensor, x: Tensor, read: Kept, span: Span
    ) -> Float[Tensor, "batch time width"]:
        """Put what global steps read, by maps of their own, in place of what they read as steps."""
        token = torch.arange(self.tokens, device=x.device) * self.spacing
        here = token - span.before[:, None]
        inside = (here >= 0) & (here < span.count[:, None])
        rows = x.gather(1, here.clamp(0, span.length - 1)[..., None].expand(-1, -1, x.shape[2]))
        query = of_tokens.rotary(of_tokens.split(of_tokens.query(rows)), token[None])
        slot = torch.arange(read.shape[1], device=x.device)
        visible = (slot <= token[:, None])[None, None]
        if self.published:
            visible = slot < span.count[:, None, None, None]
        of_each = joined(
            F.scaled_dot_product_attention(query, *of_tokens.halves(read), attn_mask=visible)
        )
        return put(y, of_each, torch.where(inside, here, span.length))


def written(
    kept: Kept, new: Kept, slot: Int[Tensor, "batch time"], span: Span
) -> Float[Tensor, "batch slots both"]:
    """Put what real steps told into their slots; what has no slot is left out."""
    slots = kept.shape[1]
    return put(kept, new, torch.where(span.real & (slot < slots), slot, slots))


def put(
    rows: Float[Tensor, "batch slots width"],
    new: Float[Tensor, "batch some width"],
    slot: Int[Tensor, "batch some"],
) -> Float[Tensor, "batch slots width"]:
    """Return the rows with new ones in their slots; what is for a slot after them is dropped."""
    longer = F.pad(rows, (0, 0, 0, 1))
    return longer.scatter(1, slot[..., None].expand_as(new), new.to(rows.dtype))[:, :-1]


def build(config: LongformerConfig) -> Stack:
    """Return the mixer."""
    inner = config.expansion * config.width
    layers = [
        MixingLayer(LocalGlobal(config, i), config.width, inner=inner, dropout=config.dropout)
        for i in range(config.layers)
    ]
    return Stack(layers, nn.LayerNorm(config.width), leak=config.leak)


SYSTEM = System(
    family="sparse attention",
    config=LongformerConfig,
    build=build,
    paper=Paper(
        title="Longformer: The Long-Document Transformer",
        authors="Beltagy, Peters, Cohan",
        year=2020,
        url="https://arxiv.org/abs/2004.05150",
    ),
    promises=Promises(
        causality="step by change",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=1, training_bytes=1, step_flops=0, state_bytes=0),
    ),
    tracing={"scheme": "shifted"},
    forecasting={"dense": True},
)
