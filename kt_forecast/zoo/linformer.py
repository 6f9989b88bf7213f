"""Linformer: attention over a few mixtures of all steps, whose shares are learned for each place.

Keys and values are projected along time to a few slots, and every query reads the slots. As
published every step reads mixtures of the whole sequence, later steps too, which no mask mends.
Here a step reads the mixtures of the steps up to it: what the published form would give it if the
sequence ended there. ``published=True`` gives the published reading, to show what it reveals; it
may not be trained for knowledge tracing or for forecasts from every origin.

The mixtures up to each step are never written out: the logits are one running sum, which queries
read by keys, and what is read is another, which weights read by shares.

Departures from the paper:
    - mixtures of the steps so far, as said above; a slot into which no step has gone is not read;
    - shares repeat after ``places`` steps, where the paper has a longest sequence;
    - shares are the same for all heads of a layer, and of each layer's own;
    - rotary positions, two layers by default, and normalised copies are read (pre-norm).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attention import Rotary
from kt_forecast.nn.running import CHUNK, running_sums
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System


class LinformerConfig(HeadsConfig):
    """Settings of Linformer.

    Attributes:
        width: numbers in a step's vector.
        heads: attention heads; must divide ``width`` into even sizes.
        layers: attention and feed-forward pairs.
        slots: mixtures of steps (their k).
        places: steps after which the shares repeat.
        sharing: ``heads``: keys and values are mixed by shares of their own; ``keys_values``: by
            the same ones.
        positions: ``rotary``, or ``none``.
        published: mix all steps, which leaks.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
        chunk: steps compared pair by pair; changes cost, and results by rounding only.
    """

    layers: int = tunable(2, (1, 2, 4), gt=0)
    slots: int = tunable(32, (16, 32, 64, 128), gt=0)
    places: int = tunable(512, (128, 512, 2048), gt=0)
    sharing: Literal["heads", "keys_values"] = tunable("heads", ("heads", "keys_values"))
    positions: Literal["rotary", "none"] = tunable("rotary", ("rotary", "none"))
    published: bool = False
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)
    chunk: int = Field(CHUNK, gt=0)

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if self.published:
            return "Linformer as published (published=true) mixes all steps before any is read"
        return ""


@dataclass(frozen=True)
class LinformerState(State):
    """The mixtures of keys and of values so far."""

    keys: Float[Tensor, "batch head size slot"]
    values: Float[Tensor, "batch head slot size"]


class LinformerAttention(nn.Module):
    """Attention over mixtures of steps; see `kt_forecast.nn.stack.Mixing`."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__()
        self.heads, self.size, self.chunk = config.heads, config.width // config.heads, config.chunk
        self.published = config.published
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        shape, most = (config.places, config.slots), config.slots**-0.5
        self.key_shares = nn.Parameter(torch.empty(shape).uniform_(-most, most))
        self.value_shares = None
        if config.sharing == "heads":
            self.value_shares = nn.Parameter(torch.empty(shape).uniform_(-most, most))
        self.rotary = Rotary(self.size) if config.positions == "rotary" else None

    def init_state(self, batch: int) -> LinformerState:
        """Return empty mixtures."""
        new, slots = self.out.weight.new_zeros, self.key_shares.shape[1]
        sizes = batch, self.heads
        return LinformerState(new(*sizes, self.size, slots), new(*sizes, slots, self.size))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: LinformerState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], LinformerState]:
        """Return what each step read of the mixtures up to it, and those after the last."""
        parts = self.query_key_value(x).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        position = span.position[:1] if span.uniform else span.position
        if self.rotary is not None:
            q, k = self.rotary(q, position), self.rotary(k, position)
        if not span.whole:
            real = span.real[:, None, :, None]
            k, v = k * real, v * real
        q = q * self.size**-0.5
        place = position % len(self.key_shares)
        of_keys = self.key_shares[place][:, None]
        of_values = of_keys if self.value_shares is None else self.value_shares[place][:, None]
        if self.published:
            y = (q @ (k.mT @ of_keys)).softmax(-1) @ (of_values.mT @ v)
            return self._merged(y, x), state
        logits, keys = running_sums(q, k, of_keys, state.keys, chunk=self.chunk)
        least = torch.finfo(logits.dtype).min
        weights = logits.masked_fill(~self._begun(position), least).softmax(-1)
        y, values = running_sums(weights, of_values, v, state.values, chunk=self.chunk)
        return self._merged(y, x), LinformerState(keys, values)

    def _begun(self, position: Tensor) -> Bool[Tensor, "rows one time slot"]:
        """Return into which slots any step up to each has gone."""
        some = (self.key_shares != 0).long().cummax(0).values.bool()
        return some[position.clamp_max(len(some) - 1)][:, None]

    def _merged(self, y: Tensor, x: Tensor) -> Tensor:
        return self.out(y.transpose(1, 2).flatten(2).to(x.dtype))


def build(config: LinformerConfig) -> Stack:
    """Return the mixer."""
    inner = config.expansion * config.width
    layers = [
        MixingLayer(LinformerAttention(config), config.width, inner=inner, dropout=config.dropout)
        for _ in range(config.layers)
    ]
    return Stack(layers, nn.LayerNorm(config.width), leak=config.leak)


SYSTEM = System(
    family="linear attention",
    config=LinformerConfig,
    build=build,
    paper=Paper(
        title="Linformer: Self-Attention with Linear Complexity",
        authors="Wang, Li, Khabsa, Fang, Ma",
        year=2020,
        url="https://arxiv.org/abs/2006.04768",
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
