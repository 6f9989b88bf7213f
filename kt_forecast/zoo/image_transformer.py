"""Image Transformer: blocks of steps read their own block and what stands around it.

In one dimension a block reads itself and the block before it, each step the steps up to itself. In
two, time is written in rows of a period, such as days of hours, and blocks are rectangles: a block
also reads the rows above it, some columns to either side there, and some columns to its left. As
published blocks are made one after another, so that what stands left of a block, in its lower rows
too, comes first; but in time those lower rows come later. Here a step reads only what is no later
than itself. ``published=True`` gives the published order, to show what it reveals; it may not be
trained for knowledge tracing or for forecasts from every origin.

Departures from the paper:
    - in two dimensions no step reads a later one, as said above;
    - blocks are of one size whatever the length, where the reference reads a short sequence whole;
    - a decoder of vectors, without the paper's coding of pixels; rotary positions in time;
    - two layers by default, and normalised copies are read (pre-norm);
    - attention weights are never dropped.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

import torch
from jaxtyping import Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.gathered import UNUSED, GatheredAttention, steps_of
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, System


class ImageTransformerConfig(HeadsConfig):
    """Settings of the Image Transformer.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width`` into even sizes.
        form: blocks of a line, or of rows of a period.
        block: steps of a block of a line.
        period: steps of a row; a multiple of ``columns``.
        columns: columns of a rectangle.
        rows: rows of a rectangle.
        above: rows above a rectangle that it reads.
        beside: columns beside a rectangle that it reads.
        published: let rectangles read all that is made before them, which leaks.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    layers: int = tunable(2, (1, 2, 4), gt=0)
    form: Literal["line", "rows"] = "line"
    block: int = tunable(64, (16, 32, 64, 128, 256), gt=0)
    period: int = Field(24, gt=0)
    columns: int = tunable(6, (3, 6, 12), gt=0)
    rows: int = tunable(2, (1, 2, 4), gt=0)
    above: int = tunable(2, (1, 2, 7), ge=0)
    beside: int = tunable(2, (0, 2, 4), ge=0)
    published: bool = False
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _rectangles_fit(self) -> Self:
        if self.form == "rows" and self.period % self.columns:
            raise ValueError(
                f"columns must divide period, got columns={self.columns} period={self.period}"
            )
        if self.published and self.form == "line":
            raise ValueError("only form='rows' leaks as published, got form='line'")
        return self

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if self.published:
            return "Image Transformer as published (published=true) reads lower rows to its left"
        return ""


def line(number: Int[Tensor, "row block"], block: int) -> Int[Tensor, "row 1 block step"]:
    """Return the places that blocks of a line read: their own and those of the block before."""
    both = torch.stack([number - 1, number], -1).clamp_min(UNUSED)
    return steps_of(both, block)[:, None]


@dataclass(frozen=True)
class Rectangles:
    """Which places the steps of a row of a rectangle read.

    Attributes:
        config: sizes.
    """

    config: ImageTransformerConfig

    @property
    def reach(self) -> int:
        """Return how far back they read at most."""
        return (self.config.rows + self.config.above) * self.config.period

    def __call__(self, number: Int[Tensor, "row block"]) -> Int[Tensor, "row 1 block step"]:
        """Return the places that rows of rectangles read, by their number in time."""
        config = self.config
        start = number * config.columns
        row, left = start // config.period, start % config.period
        top = row // config.rows * config.rows
        device = number.device
        above = (top - config.above)[..., None] + torch.arange(config.above, device=device)
        wide = left[..., None] + torch.arange(
            -config.beside, config.columns + config.beside, device=device
        )
        own = top[..., None] + torch.arange(config.rows, device=device)
        near = left[..., None] + torch.arange(-config.beside, config.columns, device=device)
        places = torch.cat([self._places(above, wide), self._places(own, near)], -1)
        return places[:, None]

    def _places(self, row: Tensor, column: Tensor) -> Tensor:
        """Return the places of a grid's cells; those outside of the plane are unused."""
        period = self.config.period
        inside = (row >= 0)[..., None] & ((column >= 0) & (column < period))[..., None, :]
        places = row[..., None] * period + column[..., None, :]
        return places.where(inside, UNUSED).flatten(-2)


class Published(GatheredAttention):
    """Attention by the order in which rectangles are made, which leaks."""

    def __init__(self, rectangles: Rectangles) -> None:
        config = rectangles.config
        super().__init__(
            config.width, config.heads, block=config.columns, table=rectangles, reach=None
        )
        self.period = config.period

    def since(
        self,
        read: Int[Tensor, "#row #head block some"],
        number: Int[Tensor, "row block"],
        span: Span,
    ) -> Int[Tensor, "#batch #head block some"]:
        """Return that what stands left of a rectangle is read from the beginning."""
        left = (number * self.block % self.period)[:, None, :, None]
        made = read.where(read % self.period >= left, 0)
        end = (span.before + span.count)[:, None, None, None]
        return made.where(read < end, torch.iinfo(torch.int64).max)


def build(config: ImageTransformerConfig) -> Stack:
    """Return the mixer."""
    inner = config.expansion * config.width
    layers = [
        MixingLayer(_attention(config), config.width, inner=inner, dropout=config.dropout)
        for _ in range(config.layers)
    ]
    return Stack(layers, nn.LayerNorm(config.width), leak=config.leak)


def _attention(config: ImageTransformerConfig) -> GatheredAttention:
    sizes = (config.width, config.heads)
    if config.form == "line":
        table = partial(line, block=config.block)
        reach = 2 * config.block - 1
        return GatheredAttention(*sizes, block=config.block, table=table, reach=reach)
    rows = Rectangles(config)
    if config.published:
        return Published(rows)
    return GatheredAttention(*sizes, block=config.columns, table=rows, reach=rows.reach)


SYSTEM = System(
    family="sparse attention",
    config=ImageTransformerConfig,
    build=build,
    paper=Paper(
        title="Image Transformer",
        authors="Parmar, Vaswani, Uszkoreit, Kaiser, Shazeer, Ku, Tran",
        year=2018,
        url="https://arxiv.org/abs/1802.05751",
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
