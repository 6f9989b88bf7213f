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

from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attention import Rotary
from kt_forecast.nn.heads import joined
from kt_forecast.nn.learning import LearningStack
from kt_forecast.nn.probsparse import sampled
from kt_forecast.nn.stack import MixingLayer
from kt_forecast.nn.streams import Span, appended
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

QUERIES_AT_ONCE = 256
"""Steps whose predictions are formed at a time."""
RECENT = 1e-6
"""By how much a prediction is raised for each step that it lies later."""
DROPPED = 1 / 3
"""Share of numbers that the random projection adds, and of those that it takes away, doubled."""


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


class PredictedAttention(nn.Module):
    """Attention to the steps of highest prediction; see `kt_forecast.nn.stack.Mixing`.

    Attributes:
        lost: see `kt_forecast.nn.learning.Losing`.
        projection: random; to the numbers that codes are made of.
    """

    lost: Tensor | None = None
    projection: Tensor

    def __init__(self, config: DynamicSparseConfig) -> None:
        super().__init__()
        self.heads, self.size = config.heads, config.width // config.heads
        self.kept, self.samples, self.published = config.kept, config.samples, config.published
        self.weight, self.levels = config.prediction, 2 ** (config.bits - 1) - 1
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.code_query = nn.Linear(config.codes, config.heads * config.codes, bias=False)
        self.code_key = nn.Linear(config.codes, config.heads * config.codes, bias=False)
        self.rotary, self.turned = Rotary(self.size), Rotary(config.codes)
        self.register_buffer("projection", projected(config.width, config.codes))

    def init_state(self, batch: int) -> DynamicSparseState:
        """Return what is kept before the first step."""
        new, codes = self.out.weight.new_zeros, self.code_key.in_features
        empty = new(batch, self.heads, 0, self.size)
        return DynamicSparseState(empty, empty, new(batch, self.heads, 0, codes))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: DynamicSparseState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], DynamicSparseState]:
        """Return what each step read, and what is kept after the last."""
        place = span.position
        q = self.rotary(self._split(self.query(x)), place)
        k, v = (self._split(half) for half in self.key_value(x).chunk(2, -1))
        short = x.detach() @ self.projection.to(x.dtype)
        asking, told = (
            rounded(self.turned(self._split(part(short)), place), self.levels)
            for part in (self.code_query, self.code_key)
        )
        keys, values = (
            appended(state.keys, self.rotary(k, place), span),
            appended(state.values, v, span),
        )
        codes = appended(state.codes, told, span)
        # No step may be read of a row that has fewer than others.
        end = span.before + span.count
        learns = self.training and torch.is_grad_enabled()
        read, lost = [], []
        some = QUERIES_AT_ONCE
        for query, asks, where in zip(
            q.split(some, 2), asking.split(some, 2), place.split(some, 1), strict=True
        ):
            args = (query, asks, where, keys, values, codes, end, learns)
            if torch.is_grad_enabled() and x.shape[1] > some:
                y, missed = checkpoint(self._read, *args, use_reentrant=False)
            else:
                y, missed = self._read(*args)
            read.append(y)
            lost.append(missed)
        if learns:
            self.lost = self.weight * torch.cat(lost, 1)
        return self.out(joined(torch.cat(read, 2)).to(x.dtype)), DynamicSparseState(
            keys, values, codes
        )

    def highest(
        self, asking: Tensor, codes: Tensor, place: Tensor, end: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the places of the highest predictions of each step, and which are in its past.

        Args:
            asking: codes of the steps that read.
            codes: of all steps.
            place: of the steps that read.
            end: steps of each row.
        """
        slot = torch.arange(codes.shape[2], device=codes.device)
        with torch.no_grad():
            ago = slot - place[:, None, :, None]
            told = asking @ codes.transpose(-1, -2) * codes.shape[-1] ** -0.5 + RECENT * ago
            legal = slot < end[:, None, None, None] if self.published else ago <= 0
            told = told.masked_fill(~legal, float("-inf"))
            chosen = told.topk(min(self.kept, codes.shape[2]), sorted=False).indices
            return chosen, chosen <= place[:, None, :, None]

    def _read(
        self,
        q: Tensor,
        asking: Tensor,
        place: Tensor,
        keys: Tensor,
        values: Tensor,
        codes: Tensor,
        end: Tensor,
        learns: bool,  # noqa: FBT001
    ) -> tuple[Tensor, Tensor]:
        """Return what some steps read, and how wrong their predictions were."""
        chosen, past = self.highest(asking, codes, place, end)
        logits = (q[:, :, :, None] * picked(keys, chosen)).sum(-1) * self.size**-0.5
        weight = logits.masked_fill(~past, torch.finfo(q.dtype).min).softmax(-1) * past
        read = (weight[..., None] * picked(values, chosen)).sum(3)
        if not learns:
            return read, q.new_zeros(q.shape[0], q.shape[2])
        drawn = sampled(place, self.samples).clamp_max(keys.shape[2] - 1)[:, None]
        drawn = drawn.expand(-1, self.heads, -1, -1)
        true = (q[:, :, :, None] * picked(keys, drawn)).sum(-1) * self.size**-0.5
        told = (asking[:, :, :, None] * picked(codes, drawn)).sum(-1) * codes.shape[-1] ** -0.5
        return read, (told - true.detach()).square().mean((1, 3))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def picked(
    x: Float[Tensor, "batch head slot size"], place: Tensor
) -> Float[Tensor, "batch head time some size"]:
    """Return what stands at the places that each step names."""
    index = place.flatten(2)[..., None].expand(-1, -1, -1, x.shape[3])
    return x.gather(2, index).unflatten(2, place.shape[2:])


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
