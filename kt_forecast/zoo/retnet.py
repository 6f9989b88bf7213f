"""Retentive network: attention without softmax, whose past fades at a fixed rate a head.

A step reads the products of keys and values before it, each faded by how long ago it was, through a
query rotated against the keys. Written as a sum over all pairs it trains like attention, written as
a recurrence it streams in constant memory, and in chunks it does both; chunks are what runs here.
Each head forgets at a rate of its own: a bank of forgetting curves.

Departures from the paper:
    - two layers by default, and feed-forward networks four times as wide as a step;
    - rates of forgetting are given by the shortest and the longest memory of a head, in steps; the
      published ones double from head to head, which the defaults do too;
    - none of the paper's three normalisations of scores: the normalisation of each head undoes
      them, and what is carried is kept in single precision at least;
    - with ``magnitudes``, keys also fade number by number, as xPos (Sun et al. 2022) has it for
      attention; RetNet leaves that out.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attention import Rotary, turned
from kt_forecast.nn.decayed import CHUNK, decayed
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

EPSILON = 1e-6
"""Added to a mean square before it divides."""
SLOWEST = 10_000.0
"""Steps after which the slowest pair of numbers has turned by one radian."""
XPOS_STEPS = 512
"""Steps over which xPos fades a number of the key once."""


class RetNetConfig(HeadsConfig):
    """Settings of RetNet.

    Attributes:
        width: numbers in a step's vector.
        layers: retention and feed-forward pairs.
        heads: retention heads; must divide ``width`` into even sizes.
        shortest: steps that the most forgetful head remembers.
        longest: steps that the least forgetful head remembers; those between lie on a
            logarithmic scale.
        values: numbers of all values per number of ``width``.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
        magnitudes: let keys fade number by number too, as xPos does.
        chunk: steps compared pair by pair; changes cost only.
    """

    layers: int = tunable(2, (1, 2, 4), gt=0)
    shortest: float = tunable(32.0, (4.0, 8.0, 16.0, 32.0), gt=1)
    longest: float = tunable(256.0, (128.0, 256.0, 512.0, 4096.0), gt=1)
    values: int = tunable(2, (1, 2), gt=0)
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)
    magnitudes: bool = False
    chunk: int = Field(CHUNK, gt=0)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.shortest > self.longest:
            raise ValueError(
                f"shortest may not exceed longest, got {self.shortest} and {self.longest}"
            )
        return self


@dataclass(frozen=True)
class RetentionState(State):
    """The faded sum of the products of keys and values, keys rotated to their positions."""

    memory: Float[Tensor, "batch head key value"]


class Retention(nn.Module):
    """Multi-scale retention; see `kt_forecast.nn.stack.Mixing`."""

    log_decay: Tensor
    fading: Tensor | None

    def __init__(self, config: RetNetConfig) -> None:
        super().__init__()
        width, inner = config.width, config.values * config.width
        self.heads, self.size, self.chunk = config.heads, width // config.heads, config.chunk
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.gate = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        half = self.size // 2
        # The published angles reach the slowest one itself; the usual ones stop a pair short of it.
        self.rotary = Rotary(self.size, base=SLOWEST ** (half / max(1, half - 1)))
        self.register_buffer("log_decay", log_decays(config), persistent=False)
        share = (torch.arange(half, dtype=torch.float64) / half + 0.4) / 1.4
        fading = (share.log() / XPOS_STEPS).repeat(2) if config.magnitudes else None
        self.register_buffer("fading", fading, persistent=False)

    def init_state(self, batch: int) -> RetentionState:
        """Return an empty memory."""
        size = self.value.weight.shape[0] // self.heads
        return RetentionState(self.out.weight.new_zeros(batch, self.heads, self.size, size))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: RetentionState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], RetentionState]:
        """Return what each step read of the steps up to it, and the memory after the last."""
        position = span.position[:1] if span.uniform else span.position
        q, k = self._split(self.query(x)), self._split(self.key(x))
        angles = self.rotary.angles(position, q.dtype)
        q, k = turned(q, angles), turned(k, angles) * self.size**-0.5
        v = self._split(self.value(x))
        decay = self.log_decay[None, :, None].expand(-1, -1, x.shape[1])
        fading = None if self.fading is None else self.fading.expand(1, 1, x.shape[1], -1)
        if not span.whole:
            real = span.real[:, None]
            k, decay = k * real[..., None], decay * real
            fading = None if fading is None else fading * real[..., None]
        y, memory = decayed(q, k, v, decay, state.memory, fading=fading, chunk=self.chunk)
        y = F.rms_norm(y, y.shape[-1:], eps=EPSILON).transpose(1, 2).flatten(2)
        return self.out(F.silu(self.gate(x)) * y.to(x.dtype)), RetentionState(memory)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def log_decays(config: RetNetConfig) -> Float[Tensor, " head"]:
    """Return the logarithm of what each head keeps of its memory from step to step."""
    ends = (-math.log(config.shortest), -math.log(config.longest))
    return (-torch.linspace(*ends, config.heads, dtype=torch.float64).exp()).log1p()


def build(config: RetNetConfig) -> Stack:
    """Return the mixer."""
    norm = partial(nn.RMSNorm, eps=EPSILON)
    inner = config.expansion * config.width
    layers = [
        MixingLayer(Retention(config), config.width, norm=norm, inner=inner, dropout=config.dropout)
        for _ in range(config.layers)
    ]
    return Stack(layers, norm(config.width))


SYSTEM = System(
    family="recurrent",
    config=RetNetConfig,
    build=build,
    paper=Paper(
        title="Retentive Network: A Successor to Transformer for Large Language Models",
        authors="Sun, Dong, Huang, Ma, Xia, Xue, Wang, Wei",
        year=2023,
        url="https://arxiv.org/abs/2307.08621",
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
