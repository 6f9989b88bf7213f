"""Performer: softmax attention estimated from random features, at a cost linear in the steps.

The exponential of a product of query and key is the mean of a product of two positive features, one
of each, over random directions. With a fixed set of directions, drawn at right angles to each
other, attention becomes a sum over all steps so far that a query reads at once.

As published a key's features are divided by the largest of the whole sequence before a small number
is added, so that a later key changes what an earlier step reads. Here the divisor is a bound that
no step moves. ``published=True`` gives the published one, to show what it reveals; it may not be
trained for knowledge tracing or for forecasts from every origin.

Departures from the paper:
    - features of keys are bounded by one through their distance to the directions, and nothing is
      added to them, as said above; where all of a step's weights vanish it reads zero;
    - the signs of the directions are mended, without which they are not uniform;
    - directions are drawn once and saved with the weights, never drawn again while training: sums
      that a stream carries would be of other features;
    - two layers by default, rotary positions, and normalised copies are read (pre-norm).
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attention import Rotary
from kt_forecast.nn.running import CHUNK, running_sums
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

TINY = 1e-30
"""The least sum of weights that divides."""
PUBLISHED_EPSILON = 1e-4
"""Added to every feature as published."""
RELU_EPSILON = 1e-3
"""Added to every rectified feature."""


class PerformerConfig(HeadsConfig):
    """Settings of the Performer.

    Attributes:
        width: numbers in a step's vector.
        heads: attention heads; must divide ``width`` into even sizes.
        layers: attention and feed-forward pairs.
        features: random directions, shared by the heads of a layer.
        kernel: ``softmax``: features that estimate softmax attention; ``relu``: rectified ones.
        lengths: ``drawn``: directions are as long as random normal vectors; ``same``: all as long
            as those are in the mean.
        positions: ``rotary``, or ``none``: steps are read whatever their order.
        published: divide keys by the largest of all steps, which leaks.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
        chunk: steps compared pair by pair; changes cost, and results by rounding only.
    """

    layers: int = tunable(2, (1, 2, 4), gt=0)
    features: int = tunable(64, (32, 64, 128, 256), gt=0)
    kernel: Literal["softmax", "relu"] = tunable("softmax", ("softmax", "relu"))
    lengths: Literal["drawn", "same"] = "drawn"
    positions: Literal["rotary", "none"] = tunable("rotary", ("rotary", "none"))
    published: bool = False
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)
    chunk: int = Field(CHUNK, gt=0)

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if self.published and self.kernel == "softmax":
            return "Performer as published (published=true) divides keys by the largest of all"
        return ""


@dataclass(frozen=True)
class PerformerState(State):
    """Sum of the products of keys' features and values; the last column sums the features."""

    memory: Float[Tensor, "batch head feature size"]


class FavorAttention(nn.Module):
    """Attention by random features; see `kt_forecast.nn.stack.Mixing`."""

    directions: Tensor

    def __init__(self, config: PerformerConfig) -> None:
        super().__init__()
        self.heads, self.size, self.chunk = config.heads, config.width // config.heads, config.chunk
        self.rectified, self.published = config.kernel == "relu", bool(config.leak)
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.rotary = Rotary(self.size) if config.positions == "rotary" else None
        drawn = directions(config.features, self.size, same_length=config.lengths == "same")
        self.register_buffer("directions", drawn)

    def init_state(self, batch: int) -> PerformerState:
        """Return empty sums."""
        shape = batch, self.heads, len(self.directions), self.size + 1
        return PerformerState(self.out.weight.new_zeros(shape))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: PerformerState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], PerformerState]:
        """Return what each step read of the steps up to it, and the sums after the last."""
        parts = self.query_key_value(x).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        if self.rotary is not None:
            position = span.position[:1] if span.uniform else span.position
            q, k = self.rotary(q, position), self.rotary(k, position)
        real = None if span.whole else span.real[:, None, :, None]
        with torch.autocast(x.device.type, enabled=False):
            q, k = self._features(q, k, real)
        if real is not None:
            k = k * real
        v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
        y, memory = running_sums(q, k, v, state.memory, chunk=self.chunk)
        y = y[..., :-1] / y[..., -1:].clamp_min(TINY)
        return self.out(y.transpose(1, 2).flatten(2).to(x.dtype)), PerformerState(memory)

    def _features(
        self, q: Tensor, k: Tensor, real: Bool[Tensor, "batch one time one"] | None
    ) -> tuple[Tensor, Tensor]:
        """Return the features of queries and keys, in single precision at least."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        w = self.directions.to(dtype)
        q, k = q.to(dtype), k.to(dtype)
        if self.rectified:
            return rectified(q, w), rectified(k, w)
        if self.published:
            return published(q, k, w, real)
        return of_queries(q, w), of_keys(k, w)


def directions(
    count: int, size: int, *, same_length: bool = False
) -> Float[Tensor, "{count} {size}"]:
    """Draw directions: those of each block of as many as a head has numbers are orthogonal.

    Args:
        count: how many.
        size: numbers of each.
        same_length: give all the length of the mean square instead of a random vector's.
    """
    blocks = torch.randn(-(-count // size), size, size, dtype=torch.float64)
    turned, upper = torch.linalg.qr(blocks)
    # Without the signs of its diagonal the factor is not uniform over all rotations.
    turned = turned * upper.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    lengths = torch.randn(count, size, dtype=torch.float64).norm(dim=-1, keepdim=True)
    if same_length:
        lengths = torch.full_like(lengths, size**0.5)
    return (turned.flatten(0, 1)[:count] * lengths).to(torch.get_default_dtype())


def of_keys(
    k: Float[Tensor, "*batch size"], w: Float[Tensor, "feature size"]
) -> Float[Tensor, "*batch feature"]:
    """Return what estimates softmax, each divided by the largest that any key could have."""
    k = k * k.shape[-1] ** -0.25
    nearness = k @ w.T - k.square().sum(-1, keepdim=True) / 2 - w.square().sum(-1) / 2
    return nearness.exp()


def of_queries(
    q: Float[Tensor, "*batch size"], w: Float[Tensor, "feature size"]
) -> Float[Tensor, "*batch feature"]:
    """Return the features that undo the divisors of `of_keys`, up to a factor for each query."""
    logits = (q * q.shape[-1] ** -0.25) @ w.T + w.square().sum(-1) / 2
    return (logits - logits.detach().amax(-1, keepdim=True)).exp()


def rectified(
    x: Float[Tensor, "*batch size"], w: Float[Tensor, "feature size"]
) -> Float[Tensor, "*batch feature"]:
    """Return rectified features, never zero."""
    return F.relu((x * x.shape[-1] ** -0.25) @ w.T) + RELU_EPSILON


def published(
    q: Float[Tensor, "batch head time size"],
    k: Float[Tensor, "batch head time size"],
    w: Float[Tensor, "feature size"],
    real: Bool[Tensor, "batch one time one"] | None,
) -> tuple[Float[Tensor, "batch head time feature"], Float[Tensor, "batch head time feature"]]:
    """Return the features as published: keys divided by the largest of the sequence."""

    def logits(x: Tensor) -> Tensor:
        x = x * x.shape[-1] ** -0.25
        return x @ w.T - x.square().sum(-1, keepdim=True) / 2

    of_q, of_k = logits(q), logits(k)
    seen = of_k if real is None else of_k.masked_fill(~real, -torch.inf)
    of_k = of_k - seen.amax((-1, -2), keepdim=True)
    of_q = of_q - of_q.amax(-1, keepdim=True)
    return of_q.exp() + PUBLISHED_EPSILON, of_k.exp() + PUBLISHED_EPSILON


def build(config: PerformerConfig) -> Stack:
    """Return the mixer."""
    inner = config.expansion * config.width
    layers = [
        MixingLayer(FavorAttention(config), config.width, inner=inner, dropout=config.dropout)
        for _ in range(config.layers)
    ]
    return Stack(layers, nn.LayerNorm(config.width), leak=config.leak)


SYSTEM = System(
    family="linear attention",
    config=PerformerConfig,
    build=build,
    paper=Paper(
        title="Rethinking Attention with Performers",
        authors="Choromanski, Likhosherstov, Dohan, Song, Gane, Sarlos, Hawkins, Davis, Mohiuddin, "
        "Kaiser, Belanger, Colwell, Weller",
        year=2021,
        url="https://arxiv.org/abs/2009.14794",
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
