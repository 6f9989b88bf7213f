"""Mamba: a state space whose steps decide how much they write, and for how long it stays.

Each channel keeps a few numbers that decay and are added to. What a step writes, what it reads and
how long it lasts are functions of the step itself; a step that lasts no time leaves the state as it
was. With ``form="mamba2"`` all numbers of a head decay alike: then the whole is linear attention
with a decay that the step chooses, and matrix products do the work (Dao and Gu 2024, Transformers
are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality).

Departures from the paper:
    - two blocks by default, and a dropout of what a block adds;
    - no fused kernels: states within a chunk are formed again for the backward pass, by the same
      idea as the paper's kernel, in plain operations;
    - the second form has fewer and smaller heads by default, for narrow networks.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.convolution import CausalConvolution
from kt_forecast.nn.decayed import decayed
from kt_forecast.nn.scan import CHUNK, selective_scan
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, Paper, Promises, State, System, SystemConfig

EPSILON = 1e-5
"""Added to a mean square before it divides."""
PER_RANK = 16
"""Numbers of a step's vector for each number that its length is made of."""
LENGTHS = (1e-3, 0.1)
"""Between these lie the lengths of steps at first."""
LEAST_LENGTH = 1e-4
"""No step is shorter at first."""
RATES = (1.0, 16.0)
"""Between these lie the rates of decay of the second form's heads at first."""


class MambaConfig(SystemConfig):
    """Settings of Mamba.

    Attributes:
        form: ``mamba1``: each number of the state has a decay of its own; ``mamba2``: those of a
            head decay alike.
        width: numbers in a step's vector.
        layers: blocks.
        expansion: channels of a block per number of ``width``.
        state: numbers that each channel keeps.
        kernel: steps that the convolution reads.
        heads: of the second form; must divide the channels.
        groups: of the second form: how many sets of heads write and read in ways of their own;
            must divide ``heads``.
        exact: of the first form: hold the input constant for the length of a step, instead of
            multiplying it by that length.
        dropout: probability of dropping a number of what a block adds.
        chunk: steps whose states are written out at a time; changes cost only.
    """

    form: Literal["mamba1", "mamba2"] = tunable("mamba1", ("mamba1", "mamba2"))
    width: int = tunable(64, (32, 64, 128, 256), gt=0)
    layers: int = tunable(2, (1, 2, 4), gt=0)
    expansion: int = tunable(2, (1, 2), gt=0)
    state: int = tunable(16, (8, 16, 32, 64), gt=0)
    kernel: int = tunable(4, (2, 4), gt=0)
    heads: int = tunable(4, (2, 4, 8), gt=0)
    groups: int = Field(1, gt=0)
    exact: bool = False
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)
    chunk: int = Field(CHUNK, gt=0)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.form == "mamba2" and self.channels % self.heads:
            raise ValueError(
                f"heads must divide expansion * width, got heads={self.heads} "
                f"expansion={self.expansion} width={self.width}"
            )
        if self.form == "mamba2" and self.heads % self.groups:
            raise ValueError(
                f"groups must divide heads, got groups={self.groups} heads={self.heads}"
            )
        return self

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return self.expansion * self.width


@dataclass(frozen=True)
class MambaState(State):
    """What a block keeps.

    Attributes:
        entered: the latest steps, which the convolution reads too.
        memory: the numbers of each channel; in the second form a matrix a head.
    """

    entered: Float[Tensor, "batch kept entered"]
    memory: Float[Tensor, " batch *memory"]


class Mamba1(nn.Module):
    """Selective state space; see `kt_forecast.nn.stack.Mixing`."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        width, channels, state = config.width, config.channels, config.state
        rank = math.ceil(width / PER_RANK)
        self.exact, self.chunk, self.sizes = config.exact, config.chunk, (rank, state, state)
        self.enter = nn.Linear(width, 2 * channels, bias=False)
        self.convolution = CausalConvolution(channels, config.kernel)
        self.select = nn.Linear(channels, sum(self.sizes), bias=False)
        self.length = nn.Linear(rank, channels)
        nn.init.uniform_(self.length.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.length.bias.copy_(first_lengths(channels))
        # Flat, since weight decay is for matrices.
        rates = torch.arange(1.0, state + 1).log().repeat(channels)
        self.log_rate = nn.Parameter(rates)
        self.skip = nn.Parameter(torch.ones(channels))
        self.out = _out(config)

    def init_state(self, batch: int) -> MambaState:
        """Return zeros."""
        memory = self.skip.new_zeros(batch, len(self.skip), self.sizes[-1])
        return MambaState(self.convolution.init_state(batch), memory)

    def forward(
        self, x: Float[Tensor, "batch time width"], state: MambaState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], MambaState]:
        """Return what each step read of the steps up to it, and the state after the last."""
        u, gate = self.enter(x).chunk(2, -1)
        u, entered = self.convolution(u, state.entered, span)
        u = F.silu(u)
        low, write, read = self.select(u).split(self.sizes, -1)
        length = F.softplus(self.length(low))
        if not span.whole:
            length = length * span.real[..., None]
        rate = -self.log_rate.exp().unflatten(0, (-1, self.sizes[-1]))
        y, memory = selective_scan(
            u, length, rate, write, read, state.memory, exact=self.exact, chunk=self.chunk
        )
        y = (y + self.skip * u).to(x.dtype)
        return self.out(y * F.silu(gate)), MambaState(entered, memory)


class Mamba2(nn.Module):
    """State space dual; see `kt_forecast.nn.stack.Mixing`."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        width, channels = config.width, config.channels
        self.heads, self.groups, self.chunk = config.heads, config.groups, config.chunk
        shared = config.groups * config.state
        self.parts = (channels, shared, shared)
        self.sizes = (channels, sum(self.parts), config.heads)
        self.enter = nn.Linear(width, sum(self.sizes), bias=False)
        self.convolution = CausalConvolution(sum(self.parts), config.kernel)
        self.length = nn.Parameter(first_lengths(config.heads))
        self.log_rate = nn.Parameter(torch.empty(config.heads).uniform_(*RATES).log())
        self.skip = nn.Parameter(torch.ones(config.heads))
        self.norm = nn.RMSNorm(channels, eps=EPSILON)
        self.out = _out(config)

    def init_state(self, batch: int) -> MambaState:
        """Return zeros."""
        channels, shared, _ = self.parts
        sizes = self.heads, shared // self.groups, channels // self.heads
        memory = self.skip.new_zeros(batch, *sizes)
        return MambaState(self.convolution.init_state(batch), memory)

    def forward(
        self, x: Float[Tensor, "batch time width"], state: MambaState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], MambaState]:
        """Return what each step read of the steps up to it, and the state after the last."""
        gate, mixed, length = self.enter(x).split(self.sizes, -1)
        mixed, entered = self.convolution(mixed, state.entered, span)
        u, write, read = F.silu(mixed).split(self.parts, -1)
        length = F.softplus(length + self.length)
        if not span.whole:
            length = length * span.real[..., None]
        length = length.transpose(1, 2)
        u = u.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        y, memory = decayed(
            self._shared(read),
            self._shared(write),
            length[..., None] * u,
            -self.log_rate.exp()[:, None] * length,
            state.memory,
            chunk=self.chunk,
        )
        y = (y + self.skip[:, None, None] * u).transpose(1, 2).flatten(2).to(x.dtype)
        return self.out(self.norm(y * F.silu(gate))), MambaState(entered, memory)

    def _shared(self, x: Tensor) -> Tensor:
        """Give every head what its group writes or reads by; one copy where there is one group."""
        x = x.unflatten(-1, (self.groups, -1)).transpose(1, 2)
        return x if self.groups == 1 else x.repeat_interleave(self.heads // self.groups, 1)


def first_lengths(count: int) -> Float[Tensor, " length"]:
    """Return what a softplus makes lengths of steps of, spread on a logarithmic scale."""
    low, high = (math.log(length) for length in LENGTHS)
    length = torch.empty(count).uniform_(low, high).exp().clamp_min(LEAST_LENGTH)
    return length + (-(-length).expm1()).log()


def _out(config: MambaConfig) -> nn.Linear:
    """Return the last map of a block, the smaller at first the more blocks add to the stream."""
    out = nn.Linear(config.channels, config.width, bias=False)
    with torch.no_grad():
        out.weight /= config.layers**0.5
    return out


def build(config: MambaConfig) -> Stack:
    """Return the mixer."""
    norm = partial(nn.RMSNorm, eps=EPSILON)
    form = Mamba1 if config.form == "mamba1" else Mamba2
    layers = [
        MixingLayer(form(config), config.width, norm=norm, dropout=config.dropout)
        for _ in range(config.layers)
    ]
    return Stack(layers, norm(config.width))


SYSTEM = System(
    family="recurrent",
    config=MambaConfig,
    build=build,
    paper=Paper(
        title="Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        authors="Gu, Dao",
        year=2023,
        url="https://arxiv.org/abs/2312.00752",
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
