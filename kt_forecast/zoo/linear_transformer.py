"""Linear Transformer: attention by sums of features, a recurrent network that trains in parallel.

The weight of a step is a product of positive features of its key and of the query. So the sum over
all steps so far is one matrix a head, to which a step adds its key's features times its value, and
a query reads it by its own features, divided by what it reads of the keys alone. In chunks it
trains like attention, as a recurrence it streams in constant memory.

Departures from the paper:
    - two layers by default, and normalised copies are read (pre-norm);
    - rotary positions instead of absolute ones, as RoFormer (Su et al. 2021) has them for linear
      attention: features are turned where values are summed, and not where weights are;
    - chunks of steps, where the paper sums step by step; sums in single precision at least.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attention import Rotary
from kt_forecast.nn.running import CHUNK, running_sums
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

EPSILON = 1e-6
"""Added to the sum of weights before it divides."""


class LinearTransformerConfig(HeadsConfig):
    """Settings of the Linear Transformer.

    Attributes:
        width: numbers in a step's vector.
        heads: attention heads; must divide ``width`` into even sizes.
        layers: attention and feed-forward pairs.
        positions: ``rotary``, or ``none``: steps are read whatever their order.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
        chunk: steps compared pair by pair; changes cost, and results by rounding only.
    """

    layers: int = tunable(2, (1, 2, 4), gt=0)
    positions: Literal["rotary", "none"] = tunable("rotary", ("rotary", "none"))
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)
    chunk: int = Field(CHUNK, gt=0)


@dataclass(frozen=True)
class LinearState(State):
    """What a layer keeps.

    Attributes:
        memory: sum of the products of keys' features and values (their S).
        total: sum of keys' features (their Z).
    """

    memory: Float[Tensor, "batch head size size"]
    total: Float[Tensor, "batch head size one"]


class LinearAttention(nn.Module):
    """Attention by sums of features; see `kt_forecast.nn.stack.Mixing`."""

    def __init__(self, config: LinearTransformerConfig) -> None:
        super().__init__()
        self.heads, self.size, self.chunk = config.heads, config.width // config.heads, config.chunk
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.rotary = Rotary(self.size) if config.positions == "rotary" else None

    def init_state(self, batch: int) -> LinearState:
        """Return empty sums."""
        new, heads, size = self.out.weight.new_zeros, self.heads, self.size
        return LinearState(new(batch, heads, size, size), new(batch, heads, size, 1))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: LinearState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], LinearState]:
        """Return what each step read of the steps up to it, and the sums after the last."""
        parts = self.query_key_value(x).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        q, k = positive(q), positive(k)
        if not span.whole:
            k = k * span.real[:, None, :, None]
        ones = torch.ones_like(v[:1, :1, :, :1])
        weights, total = running_sums(q, k, ones, state.total, chunk=self.chunk)
        if self.rotary is not None:
            position = span.position[:1] if span.uniform else span.position
            q, k = self.rotary(q, position), self.rotary(k, position)
        y, memory = running_sums(q, k, v, state.memory, chunk=self.chunk)
        y = (y / (weights + EPSILON)).transpose(1, 2).flatten(2)
        return self.out(y.to(x.dtype)), LinearState(memory, total)


def positive(x: Tensor) -> Tensor:
    """Return the features of queries and keys (their phi)."""
    return F.elu(x) + 1


def build(config: LinearTransformerConfig) -> Stack:
    """Return the mixer."""
    inner = config.expansion * config.width
    layers = [
        MixingLayer(LinearAttention(config), config.width, inner=inner, dropout=config.dropout)
        for _ in range(config.layers)
    ]
    return Stack(layers, nn.LayerNorm(config.width))


SYSTEM = System(
    family="linear attention",
    config=LinearTransformerConfig,
    build=build,
    paper=Paper(
        title="Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
        authors="Katharopoulos, Vyas, Pappas, Fleuret",
        year=2020,
        url="https://arxiv.org/abs/2006.16236",
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
