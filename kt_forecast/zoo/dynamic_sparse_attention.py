"""Dynamic Sparse Attention: a cheap prediction of the logits says which few steps each step reads.

Steps are projected to a few numbers at random, mapped and rounded to few bits; products of these
codes predict the logits, and a step reads those of the steps up to it that are predicted highest.
The prediction learns from the logits themselves, at a few steps drawn for each step. Not to be
confused with DeepSeek's later attention of the same initials.

Only the paper's abstract and introduction could be read, and there is no public code: the random
projection, the rounded codes, the highest of a row and the squared difference kept. The rest is our
construction.

As published a row's highest are taken among all steps, and what is later is masked afterwards: then
later steps push earlier ones out. Here what is later is masked first. ``published=True`` gives that
order, to show what it reveals; no slope shows it.

Departures from the paper:
    - the later is masked before the highest are taken, as said above;
    - each step has a scale of its own for rounding, since one for all would know all steps;
    - the difference between logits and prediction is measured at steps drawn for each step by its
      place, not at all pairs, and moves the prediction alone;
    - of equal predictions the later step's is taken for the higher;
    - rotary positions in attention and in codes;
    - two layers by default; attention weights are never dropped.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from pydantic import Field, field_validator
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attention import Rotary
from kt_forecast.nn.heads import Heads, OfHeads
from kt_forecast.nn.learning import LearningStack
from kt_forecast.nn.picked import NUMBERS_AT_ONCE, blended, joined_parts, products
from kt_forecast.nn.stack import MixingLayer
from kt_forecast.nn.streams import Span, appended
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

PARTS = 8
"""Of a long sequence the steps that choose at a time are so small a part: none is compared to all.
"""
LEAST = 256
"""Steps that choose at a time in shorter ones."""
TOGETHER = 32
"""Slots of which first the largest prediction is looked at, where there are many."""
GOLDEN = (5**0.5 - 1) / 2
ENDS = 2**31
"""As many places between nothing and one."""
RECENT = 2.0**-20
"""By how much a prediction is raised for each step that it lies later."""
FEW = 2**8
"""Places that are told apart by one number."""
DROPPED = 1 / 3
"""Share of numbers that the random projection adds, and of those that it takes away, doubled."""
Chosen = Shaped[Tensor, "batch head time kept"]


class DynamicSparseConfig(HeadsConfig):
    """Settings of Dynamic Sparse Attention.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width`` into even sizes.
        kept: steps that a step reads.
        codes: numbers that a step is projected to for prediction; even.
        bits: of each number of a code.
        samples: steps drawn for each step, at which the prediction learns.
        prediction: weight in the loss of the squared difference between logits and prediction.
        published: take the highest among all steps of the sequence, which leaks.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    layers: int = tunable(2, (1, 2, 4), gt=0)
    kept: int = tunable(16, (8, 16, 32, 64), gt=0)
    codes: int = tunable(16, (8, 16, 32), gt=0)
    bits: int = Field(8, gt=1, le=16)
    samples: int = Field(8, gt=0)
    prediction: float = tunable(0.01, Range(low=1e-4, high=0.1, log=True), gt=0.0)
    published: bool = False
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @field_validator("codes")
    @classmethod
    def _in_pairs(cls, codes: int) -> int:
        if codes % 2:
            raise ValueError(f"codes must be even (rotation turns pairs), got codes={codes}")
        return codes

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if not self.published:
            return ""
        return "published = true lets later steps push earlier ones out of what is read"


@dataclass(frozen=True)
class DynamicSparseState(State):
    """What a layer keeps of all steps: rotated keys, values and codes."""

    keys: Float[Tensor, "batch head slot size"]
    values: Float[Tensor, "batch head slot size"]
    codes: Float[Tensor, "batch head slot code"]


class PredictedAttention(Heads):
    """Attention to the steps of highest prediction; see `kt_forecast.nn.stack.Mixing`.

    Attributes:
        lost: see `kt_forecast.nn.learning.Losing`.
        projection: random; to the numbers that codes are made of.
        strides: how far the share of the past moves from step to step at which each sample stands.
    """

    lost: Tensor | None = None
    projection: Tensor
    strides: Tensor

    def __init__(self, config: DynamicSparseConfig) -> None:
        super().__init__(config.width, config.heads)
        self.most, self.samples, self.published = config.kept, config.samples, config.published
        self.weight, self.levels = config.prediction, 2 ** (config.bits - 1) - 1
        self.code_query = nn.Linear(config.codes, config.heads * config.codes, bias=False)
        self.code_key = nn.Linear(config.codes, config.heads * config.codes, bias=False)
        self.turned = Rotary(config.codes)
        self.register_buffer("projection", projected(config.width, config.codes))
        # The multiples of an irrational share fill what there is evenly (Weyl 1916).
        share = ((torch.arange(config.samples) + 1).double() * GOLDEN).frac()
        self.register_buffer("strides", (share * ENDS).long() | 1, persistent=False)

    def init_state(self, batch: int) -> DynamicSparseState:
        """Return what is kept before the first step."""
        new, codes = self.out.weight.new_zeros, self.code_key.in_features
        empty = new(batch, self.heads, 0, self.size)
        return DynamicSparseState(empty, empty, new(batch, self.heads, 0, codes))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: DynamicSparseState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], DynamicSparseState]:
        """Return what each step read, and what is kept after the last."""
        q, k, v = self.mapped(x, span)
        keys, values = appended(state.keys, k, span), appended(state.values, v, span)
        place = span.places
        asking, told = self.coded(x, place).chunk(2, 1)
        codes = appended(state.codes, told, span)
        # What is kept may have more digits than what comes; it is read in as many.
        read_keys, read_values, read_codes = (
            kept.to(new.dtype) for kept, new in ((keys, k), (values, v), (codes, told))
        )
        chosen, past = self.highest(asking, read_codes, span)
        logits = products(q, read_keys, chosen) * self.size**-0.5
        weight = logits.masked_fill(~past, torch.finfo(logits.dtype).min).softmax(-1)
        weight = (weight * past if self.published else weight).to(v.dtype)
        read = blended(weight, read_values, chosen)
        if self.training and torch.is_grad_enabled():
            self.lost = self.weight * self._missed(q, read_keys, asking, read_codes, place)
        return self.merged(read.to(x.dtype)), DynamicSparseState(keys, values, codes)

    def coded(
        self, x: Float[Tensor, "batch time width"], place: Int[Tensor, "#batch time"]
    ) -> Float[Tensor, "batch twice time code"]:
        """Return what all heads ask by, and then what they are told by, rounded to few bits."""
        short = x.detach() @ self.projection.to(x.dtype)
        both = F.linear(short, torch.cat([self.code_query.weight, self.code_key.weight]))
        both = both.unflatten(-1, (2 * self.heads, -1)).transpose(1, 2)
        return rounded(self.turned(both, place), self.levels)

    @torch.no_grad()
    def highest(self, asking: OfHeads, codes: OfHeads, span: Span) -> tuple[Chosen, Chosen]:
        """Return the places of the highest predictions of each step, and which are in its past.

        What lies later is not read; in its stead the step itself is named, so that nothing later
        can be.

        Args:
            asking: codes of the steps that read.
            codes: of all steps.
            span: where those stand that read.
        """
        slots, place = codes.shape[2], span.places
        kept = min(self.most, slots)
        apart = slots > 2 * TOGETHER * kept
        # One product of matrices gives predictions raised for what is later.
        exact = torch.promote_types(codes.dtype, torch.float32)
        later = torch.arange(slots + -slots % TOGETHER, device=codes.device)
        told = F.pad(codes.to(exact), (0, 0, 0, len(later) - slots))
        told = torch.cat([told, raised(later).to(exact).expand(*told.shape[:2], -1, -1)], -1)
        asking = F.pad(asking.to(exact) * codes.shape[3] ** -0.5, (0, 2), value=1.0)
        asking, told = asking.flatten(0, 1), told.flatten(0, 1).mT
        found = []
        for low, high in self._some(span, codes):
            # What lies before all of these steps need not be hidden, nor what lies after formed.
            first, stop = (0, slots) if self.published else (span.low + low, span.high + high)
            stop = max(stop, kept * TOGETHER if apart else kept)
            stop += -stop % TOGETHER
            where = later[first:stop]
            if self.published:
                # No step may be read of a row that has fewer than others.
                hidden = where >= (span.before + span.count)[:, None, None, None]
            else:
                hidden = where > place[:, None, low:high, None]
            with torch.autocast(codes.device.type, enabled=False):
                score = torch.bmm(asking[:, low:high], told[:, :, :stop])
            score = score.unflatten(0, codes.shape[:2])
            score[..., first:].masked_fill_(hidden, float("-inf"))
            found.append(largest(score, kept, apart=apart))
            del score, hidden
        whole = [joined_parts(parts) for parts in zip(*found, strict=True)]
        chosen = slots_of(*whole) if apart else whole[0]
        own = place[:, None, :, None]
        return chosen.clamp_max(own.clamp_max(slots - 1)), chosen <= own

    def _some(self, span: Span, codes: OfHeads) -> Iterator[tuple[int, int]]:
        """Yield between which columns few enough steps stand to choose at a time."""
        batch, heads, slots, _ = codes.shape
        fit, most, low = NUMBERS_AT_ONCE // max(batch * heads, 1), max(slots // PARTS, LEAST), 0
        while low < span.length:
            # Each of n steps is compared to those before all of them and to the n themselves.
            before = slots if self.published else span.high + low
            n = (math.isqrt(before**2 + 4 * fit) - before) // 2
            high = min(low + max(min(n, most), 1), span.length)
            yield low, high
            low = high

    def _missed(
        self, q: Tensor, keys: Tensor, asking: Tensor, codes: Tensor, place: Tensor
    ) -> Float[Tensor, "batch time"]:
        """Return how wrong the predictions of each step were, at steps drawn for it."""
        place = place[:, None, :, None]
        drawn = ((place * self.strides) & (ENDS - 1)) * (place + 1) // ENDS
        drawn = drawn.clamp_max(keys.shape[2] - 1)
        with torch.no_grad():
            true = products(q, keys, drawn) * self.size**-0.5
        told = products(asking, codes, drawn) * codes.shape[-1] ** -0.5
        return (told - true).square().mean((1, 3))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def raised(place: Int[Tensor, " slot"]) -> Float[Tensor, "slot 2"]:
    """Return two numbers whose sum grows by `RECENT` a place; both are exact in few digits."""
    few = place % FEW
    return torch.stack([place - few, few], -1) * RECENT


def largest(
    score: Float[Tensor, "batch head some slot"], kept: int, *, apart: bool
) -> tuple[Int[Tensor, "batch head some kept"], ...]:
    """Return where the largest scores stand, in any order; slots are whole multiples of `TOGETHER`.

    Args:
        score: of each slot.
        kept: how many are asked for.
        apart: first find those slots together of which the largest are largest, among which all of
            these stand, so that few are compared. Their numbers and then places among all of them
            are returned, see `slots_of`.
    """
    if not apart:
        return (score.topk(kept, sorted=False).indices,)
    several = score.unflatten(3, (-1, TOGETHER))
    block = several.amax(-1).topk(kept, sorted=False).indices
    near = several.gather(3, block[..., None].expand(-1, -1, -1, -1, TOGETHER)).flatten(3)
    return block, near.topk(kept, sorted=False).indices


def slots_of(block: Chosen, place: Chosen) -> Chosen:
    """Return the slots at places among those of the blocks of each step."""
    return torch.add(place % TOGETHER, block.gather(3, place // TOGETHER), alpha=TOGETHER)


def projected(width: int, codes: int) -> Float[Tensor, "{width} {codes}"]:
    """Draw a sparse projection that keeps products of vectors, on average (Achlioptas 2003)."""
    drawn = torch.rand(width, codes)
    signs = (drawn < DROPPED / 2).float() - (drawn > 1 - DROPPED / 2).float()
    return signs * (1 / (DROPPED * codes)) ** 0.5


def rounded(x: Float[Tensor, "*batch size"], levels: int) -> Float[Tensor, "*batch size"]:
    """Round each vector to so many steps up to its greatest number; slopes pass through."""
    step = x.detach().abs().amax(-1, keepdim=True) / levels
    step = step.clamp_min(torch.finfo(x.dtype).tiny)
    return x + ((x / step).round() * step - x).detach()


def build(config: DynamicSparseConfig) -> LearningStack:
    """Return the mixer."""
    inner = config.expansion * config.width
    layers = [
        MixingLayer(PredictedAttention(config), config.width, inner=inner, dropout=config.dropout)
        for _ in range(config.layers)
    ]
    return LearningStack(layers, nn.LayerNorm(config.width), leak=config.leak)


SYSTEM = System(
    family="sparse attention",
    config=DynamicSparseConfig,
    build=build,
    paper=Paper(
        title="Transformer Acceleration with Dynamic Sparse Attention",
        authors="Liu, Qu, Chen, Ding, Xie",
        year=2021,
        url="https://arxiv.org/abs/2110.11299",
    ),
    promises=Promises(
        causality="step by change",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=2, training_bytes=1, step_flops=1, state_bytes=1),
    ),
    tracing={"scheme": "shifted"},
    forecasting={"dense": True},
)
