"""Synthesizer: attention weights that no two steps make together.

How much a step reads of each step before it is said by the step alone (``dense``), or by nothing
but the two places (``random``): a table of weights learned like any other. So it asks how much of
attention is the comparison of contents, and how much only where things stand. It is as dear as full
attention up to its reach, and saves numbers, not time, where it is factorised.

Departures from the paper:
    - a step reads the latest ``reach`` steps, at places that repeat after as many, where the paper
      has a longest sequence;
    - with ``columns="ago"`` weights belong to how long ago a step was instead of its place; the
      random ones are then one curve, the same for every step;
    - two layers by default, no positions but those of the weights, and normalised copies are read
      (pre-norm);
    - attention weights are never dropped.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kt_forecast.config import Range, tunable
from kt_forecast.nn.rates import trailing
from kt_forecast.nn.relative import shifted
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

LOGITS_AT_ONCE = 2**27
"""Logits that are there at once where there are several blocks."""
PARTS = 4
"""Parts in which the blocks of a sequence are done that is read as a whole."""
QUERY_CHUNK = 256
"""Queries attended at a time, so that the weights of all pairs of steps are never there at once."""

Form = Literal["dense", "random", "factorised_dense", "factorised_random"]


class SynthesizerConfig(HeadsConfig):
    """Settings of the Synthesizer.

    Attributes:
        width: numbers in a step's vector.
        heads: attention heads; must divide ``width``.
        layers: attention and feed-forward pairs.
        form: ``dense``: a step's vector makes its weights; ``factorised_dense``: as products of two
            shorter vectors; ``random``: a table does; ``factorised_random``: the product of two
            narrow tables.
        columns: ``place``: a weight belongs to a place in the sequence; ``ago``: to a distance.
        reach: steps that are read, the own one included (their longest sequence).
        rank: columns of the narrow tables.
        mixed: add the usual comparison of queries and keys, in a learned proportion.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    even_heads: ClassVar[bool] = False

    layers: int = tunable(2, (1, 2, 4), gt=0)
    form: Form = tunable("dense", ("dense", "random", "factorised_dense", "factorised_random"))
    columns: Literal["place", "ago"] = "place"
    reach: int = Field(512, gt=0)
    rank: int = Field(8, gt=0)
    mixed: bool = False
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _a_curve_is_not_factorised(self) -> Self:
        if self.form == "factorised_random" and self.columns == "ago":
            raise ValueError("form = 'factorised_random' needs columns = 'place', got 'ago'")
        return self


@dataclass(frozen=True)
class SynthesizerState(State):
    """Values, and keys where they are compared, of the latest steps; zero before the first."""

    kept: Float[Tensor, "batch back size"]


class Weights(nn.Module):
    """Makes the logits of a step's columns from the step alone, or from its place alone."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        self.form, self.heads = config.form, config.heads
        size, reach = config.width // config.heads, config.reach
        self.hidden = None
        if config.form.endswith("dense"):
            self.hidden = nn.Linear(config.width, config.width)
            short = math.isqrt(reach)
            long = -(-reach // short)
            sizes = [(reach, size)] if config.form == "dense" else [(long, size), (short, size)]
            spread = size**-0.5
        elif config.form == "random":
            sizes, spread = [(reach if config.columns == "place" else 1, reach)], 1.0
        else:
            sizes, spread = [(reach, config.rank)] * 2, config.rank**-0.25
        drawn = (spread * torch.randn(config.heads, *shape) for shape in sizes)
        self.tables = nn.ParameterList(nn.Parameter(table) for table in drawn)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        place: Int[Tensor, "rows time"],
        column: Int[Tensor, "#rows slot"],
    ) -> Float[Tensor, "some head time slot"]:
        """Return the logits of columns.

        Args:
            x: steps.
            place: theirs, below the system's reach.
            column: which columns, below the system's reach.
        """
        first = self.tables[0]
        if self.form == "random":
            cell = (place % first.shape[1])[..., None] * first.shape[2] + column[:, None]
            return _picked(first.flatten(1), cell).transpose(0, 1)
        if self.hidden is None:
            rows, columns = _picked(first, place), _picked(self.tables[1], column)
            return (rows @ columns.mT).transpose(0, 1)
        made = F.relu(self.hidden(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if self.form == "dense":
            return made @ _picked(first, column).transpose(0, 1).mT
        long = first.shape[1]
        tiled, repeated = _picked(first, column % long), _picked(self.tables[1], column // long)
        return (made @ tiled.transpose(0, 1).mT) * (made @ repeated.transpose(0, 1).mT)


def _picked(
    table: Float[Tensor, "head row *size"], index: Int[Tensor, "*some"]
) -> Float[Tensor, "head *several last"]:
    """Return rows of each head's table, whose gradients are added in place."""
    return table.index_select(1, index.flatten()).unflatten(1, index.shape)


class SynthesizedAttention(nn.Module):
    """Attention by made weights; see `kt_forecast.nn.stack.Mixing`."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        self.heads, self.reach = config.heads, config.reach
        self.by_place = config.columns == "place"
        self.weights = Weights(config)
        self.value = nn.Linear(config.width, config.width)
        self.query_key = nn.Linear(config.width, 2 * config.width) if config.mixed else None
        self.proportion = nn.Parameter(torch.zeros(config.heads)) if config.mixed else None
        self.out = nn.Linear(config.width, config.width)

    def init_state(self, batch: int) -> SynthesizerState:
        """Return no steps."""
        width = self.value.weight.shape[0] * (1 if self.query_key is None else 2)
        return SynthesizerState(self.out.weight.new_zeros(batch, 0, width))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: SynthesizerState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], SynthesizerState]:
        """Return what each step read of the steps up to it, and the latest of them."""
        query, new = None, self.value(x)
        if self.query_key is not None:
            query, key = self.query_key(x).chunk(2, -1)
            new = torch.cat([key, new], -1)
        joined = torch.cat([state.kept, new], 1)
        before = state.kept.shape[1]
        position = span.position[:1] if span.uniform else span.position
        if span.length > QUERY_CHUNK:
            y = self._in_blocks(x, query, joined, position)
        else:
            y = self._read(x, query, joined[:, max(0, before - self.reach + 1) :], position)
        return self.out(y), SynthesizerState(self._latest(joined, span))

    def _in_blocks(
        self, x: Tensor, query: Tensor | None, joined: Tensor, position: Tensor
    ) -> Float[Tensor, "batch time width"]:
        """Let blocks of steps read as if each were a sequence: as many as memory bears at once."""
        steps, size = x.shape[1], QUERY_CHUNK
        count, before = -(-steps // size), joined.shape[1] - steps
        missing, back = count * size - steps, min(self.reach - 1, before + (count - 1) * size)

        def cut(t: Tensor) -> Tensor:
            return F.pad(t, (0, 0, 0, missing)).unflatten(1, (count, size))

        cut_x, cut_query = cut(x), None if query is None else cut(query)
        slots = F.pad(joined, (0, 0, back - before, missing)).unfold(1, back + size, size).mT
        place = position[:, :1] + torch.arange(count * size, device=x.device)
        place = place.expand(len(x), -1).unflatten(1, (count, size))
        each = len(x) * self.heads * size * (back + size)
        # Where the last block reads all, early ones are not given as much.
        parts = PARTS if back < self.reach - 1 else 1
        some = max(1, min(LOGITS_AT_ONCE // each, -(-count // parts)))
        pieces = []
        for low in range(0, count, some):
            high = min(low + some, count)
            absent = max(0, back - before - (high - 1) * size)
            asked = None if cut_query is None else cut_query[:, low:high]
            args = (cut_x[:, low:high], asked, slots[:, low:high, absent:], place[:, low:high])
            if torch.is_grad_enabled():
                run = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
                pieces.append(run(self._read_by_block, *args))
            else:
                pieces.append(self._read_by_block(*args))
        return torch.cat(pieces, 1).flatten(1, 2)[:, :steps]

    def _read_by_block(
        self, x: Tensor, query: Tensor | None, slots: Tensor, place: Tensor
    ) -> Tensor:
        """Let each block read slots of its own, which many blocks share and none keeps."""
        asked = None if query is None else query.flatten(0, 1)
        y = self._read(x.flatten(0, 1), asked, slots.flatten(0, 1), place.flatten(0, 1))
        return y.unflatten(0, x.shape[:2])

    def _read(
        self, x: Tensor, query: Tensor | None, slots: Tensor, position: Tensor
    ) -> Float[Tensor, "batch time width"]:
        """Let steps read slots, of which the last ones are those of the steps themselves."""
        steps, there = x.shape[1], slots.shape[1]
        slot = torch.arange(there, device=x.device)
        ago = torch.arange(there - steps, there, device=x.device)[:, None] - slot
        first = position[:, :1] - (there - steps)
        if self.by_place:
            logits = self.weights(x, position % self.reach, (first + slot) % self.reach)
        else:
            farthest_first = slot.flip(0).clamp_max(self.reach - 1)[None]
            logits = shifted(self.weights(x, position % self.reach, farthest_first))
        value = slots
        if query is not None and self.proportion is not None:
            key, value = slots.chunk(2, -1)
            query, key = self._split(query), self._split(key)
            share = self.proportion.sigmoid()[:, None, None]
            logits = (1 - share) * (query @ key.mT * query.shape[-1] ** -0.5) + share * logits
        visible = (ago >= 0) & (ago < self.reach) & (first[..., None] + slot >= 0)
        weight = logits.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
        return (weight @ self._split(value)).transpose(1, 2).flatten(2)

    def _latest(
        self, joined: Float[Tensor, "batch both size"], span: Span
    ) -> Float[Tensor, "batch back size"]:
        """Return the latest slots, as many as a later step may read."""
        kept = self.reach - 1
        if not torch.compiler.is_exporting():
            seen = span.low + span.length if span.uniform else int((span.before + span.count).max())
            kept = min(kept, seen)
        before = joined.shape[1] - span.length
        return trailing(F.pad(joined, (0, 0, kept - before, 0)), kept, span)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def build(config: SynthesizerConfig) -> Stack:
    """Return the mixer."""
    inner = config.expansion * config.width
    layers = [
        MixingLayer(SynthesizedAttention(config), config.width, inner=inner, dropout=config.dropout)
        for _ in range(config.layers)
    ]
    return Stack(layers, nn.LayerNorm(config.width))


SYSTEM = System(
    family="synthetic attention",
    config=SynthesizerConfig,
    build=build,
    paper=Paper(
        title="Synthesizer: Rethinking Self-Attention in Transformer Models",
        authors="Tay, Bahri, Metzler, Juan, Zhao, Zheng",
        year=2021,
        url="https://arxiv.org/abs/2005.00743",
    ),
    promises=Promises(
        causality="step",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=2, training_bytes=1, step_flops=1, state_bytes=1),
    ),
    tracing={"scheme": "shifted"},
    forecasting={"dense": True},
)
