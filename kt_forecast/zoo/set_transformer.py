"""Set Transformer: a few learned queries read the set of all steps, and each step reads them.

The induced points gather what they find among the steps, whatever its order, and a step then reads
the points instead of all steps. As published the points read the whole set, and through them each
step knows the steps after it. Here the points of a step have read the steps up to it: what the
published form would give it if the set ended there. ``published=True`` gives the published reading,
to show what it reveals; it may not be trained for knowledge tracing or for forecasts from every
origin.

What the points have gathered is carried as one vector a point and the sum of its weights, in a form
that cannot overflow, so a student is known by a state of fixed size.

Departures from the paper:
    - points read the steps so far, as said above; so the order of steps counts, since each step
      reads the set up to itself;
    - two induced layers by default, and no pooling to a vector of the set: one vector for each step
      is what the tasks ask for; the points themselves are such a pooling of the past;
    - what a step reads may be dropped while training.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kt_forecast.config import Range, tunable
from kt_forecast.nn.running import CHUNK, NOTHING, running_softmax
from kt_forecast.nn.stack import Stack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

NUMBERS_AT_ONCE = 2**25
"""Numbers of points of steps that are written out at a time."""


class SetTransformerConfig(HeadsConfig):
    """Settings of the Set Transformer.

    Attributes:
        width: numbers in a step's vector.
        heads: attention heads; must divide ``width``.
        layers: induced attention blocks.
        points: induced points of each.
        normed: normalise what a block adds up, as the paper has it and its code only on demand.
        published: let points read the whole set, which leaks.
        dropout: probability of dropping a number of what a step reads.
        chunk: steps compared pair by pair; changes cost, and results by rounding only.
    """

    even_heads: ClassVar[bool] = False

    layers: int = tunable(2, (1, 2, 4), gt=0)
    points: int = tunable(16, (4, 8, 16, 32), gt=0)
    normed: bool = True
    published: bool = False
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)
    chunk: int = Field(CHUNK, gt=0)

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if self.published:
            return "Set Transformer as published (published=true) lets points read the whole set"
        return ""


class Block(nn.Module):
    """What is read is added to a map of what reads, and then a network of the sum (their MAB)."""

    def __init__(self, config: SetTransformerConfig) -> None:
        super().__init__()
        width = config.width
        # The published code divides logits by the root of the width of all heads together.
        self.heads, self.scale = config.heads, width**-0.5
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.feed = nn.Linear(width, width)
        self.norms = nn.ModuleList(
            nn.LayerNorm(width) if config.normed else nn.Identity() for _ in range(2)
        )

    def completed(
        self, asked: Float[Tensor, "*some width"], read: Float[Tensor, "*several width"]
    ) -> Float[Tensor, "*several width"]:
        """Return the block's result from mapped queries and from what they read."""
        y = self.norms[0](asked + read)
        return self.norms[1](y + F.relu(self.feed(y)))

    def split(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch head size"]:
        """Return each vector as one vector a head."""
        return x.unflatten(-1, (self.heads, -1))


@dataclass(frozen=True)
class PointsState(State):
    """What each point has gathered, and the logarithm of the sum of its weights; zero at first."""

    read: Float[Tensor, "batch head point size"]
    mass: Float[Tensor, "batch head point"]


class InducedLayer(nn.Module):
    """Steps that read points that read steps (their ISAB); see `kt_forecast.nn.stack.Mixing`."""

    def __init__(self, config: SetTransformerConfig) -> None:
        super().__init__()
        self.published, self.chunk = config.published, config.chunk
        self.points = nn.Parameter(torch.empty(config.points, config.width))
        nn.init.xavier_uniform_(self.points)
        self.gather, self.give = Block(config), Block(config)
        self.dropout = nn.Dropout(config.dropout)

    def init_state(self, batch: int) -> PointsState:
        """Return points that have gathered nothing."""
        sizes = batch, self.gather.heads, len(self.points)
        size = self.points.shape[1] // self.gather.heads
        new = self.points.new_zeros
        return PointsState(new(*sizes, size), new(sizes))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: PointsState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], PointsState]:
        """Return each step after reading its points, and the points after the last step."""
        real = None if span.whole else span.real
        if self.published:
            logits, value = self._told(x)
            if real is not None:
                logits = logits.masked_fill(~real[:, None, :, None], NOTHING)
            return self._given(x, (logits.softmax(2).mT @ value)[:, :, None]), state
        read, mass = state.read, state.mass
        mass = mass.masked_fill((span.before == 0)[:, None, None], NOTHING)
        # Chunks are compared pair by pair too, and no more at once than there are steps in one.
        chunks = NUMBERS_AT_ONCE // (len(x) * self.points.numel() * self.chunk)
        some = self.chunk * min(max(chunks, 1), self.chunk)
        parts = x.split(some, 1)
        marks = [None] * len(parts) if real is None else real.split(some, 1)
        pieces = []
        for steps, mark in zip(parts, marks, strict=True):
            if torch.is_grad_enabled() and span.length > self.chunk:
                args = (steps, read, mass, mark)
                y, read, mass = checkpoint(self._piece, *args, use_reentrant=False)
            else:
                y, read, mass = self._piece(steps, read, mass, mark)
            pieces.append(y)
        nothing = (span.before + span.count == 0)[:, None, None]
        y = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
        return y, PointsState(read, mass.masked_fill(nothing, 0.0))

    def _piece(
        self, x: Tensor, read: Tensor, mass: Tensor, real: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Do some chunks of steps, whose points are all written out."""
        told = self._told(x)
        reads, read, mass = running_softmax(*told, read, mass, real, chunk=self.chunk)
        return self._given(x, reads), read, mass

    def _told(
        self, x: Float[Tensor, "batch time width"]
    ) -> tuple[Float[Tensor, "batch head time point"], Float[Tensor, "batch head time size"]]:
        """Return the logits of steps for each point, and their values."""
        block = self.gather
        key, value = (block.split(part).transpose(1, 2) for part in block.key_value(x).chunk(2, -1))
        asked = block.split(block.query(self.points)).transpose(0, 1)
        return key @ asked.mT * block.scale, value

    def _given(
        self,
        x: Float[Tensor, "batch time width"],
        reads: Float[Tensor, "batch head some point size"],
    ) -> Float[Tensor, "batch time width"]:
        """Let each step read the points: its own ones, or the same for all."""
        gather, give = self.gather, self.give
        gathered = reads.permute(0, 2, 3, 1, 4).flatten(3).to(x.dtype)
        points = gather.completed(gather.query(self.points), gathered)
        parts = give.key_value(points).chunk(2, -1)
        key, value = (give.split(part).transpose(2, 3) for part in parts)
        asked = give.query(x)
        weight = (give.split(asked)[..., None, :] @ key.mT * give.scale).softmax(-1)
        return give.completed(asked, self.dropout((weight @ value).flatten(2)))


def build(config: SetTransformerConfig) -> Stack:
    """Return the mixer."""
    norm = nn.Identity() if config.normed else nn.LayerNorm(config.width)
    layers = (InducedLayer(config) for _ in range(config.layers))
    return Stack(layers, norm, leak=config.leak)


SYSTEM = System(
    family="sets",
    config=SetTransformerConfig,
    build=build,
    paper=Paper(
        title="Set Transformer: A Framework for Attention-based Permutation-Invariant Neural "
        "Networks",
        authors="Lee, Lee, Kim, Kosiorek, Choi, Teh",
        year=2019,
        url="https://arxiv.org/abs/1810.00825",
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
