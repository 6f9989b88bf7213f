"""Sinkhorn Transformer: blocks of steps read their own block and whole blocks chosen from afar.

A block asks by the mean of all queries up to its first step; an earlier block answers by the sum of
the running means of its keys. The block chosen first is the one that matches best, its weight the
softmax's; the next is chosen among those that remain. Keys and values of a chosen block are
multiplied by its weight, so that what chooses learns. Where there is little past, learned null
blocks may be chosen.

As published the blocks are sorted: a matrix whose rows and columns sum to one (Sinkhorn's
iteration) mixes all blocks of the sequence, later ones too. A triangular matrix of that kind is the
identity, so that nothing causal is left of sorting; choosing is what is (the causal form of a
public implementation). ``published=True`` gives the sorted blocks, to show what they reveal.

Departures from the paper:
    - blocks are chosen, not sorted, as said above; with ``cut`` (SortCut) a step reads the blocks
      alone that its block has chosen, where the published one shares the first sorted blocks;
    - no Gumbel noise, nor any temperature but in the published form;
    - all heads cut time into the same blocks;
    - rotary positions in attention; the choice knows no positions;
    - two layers by default; attention weights are never dropped.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attention import Rotary
from kt_forecast.nn.heads import joined
from kt_forecast.nn.relative import Grid
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span, appended
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

BLOCKS_AT_ONCE = 256
"""Blocks that choose at a time."""


class SinkhornConfig(HeadsConfig):
    """Settings of the Sinkhorn Transformer.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width`` into even sizes.
        block: steps of a block.
        chosen: blocks that a block chooses.
        cut: read chosen blocks only, not the own one.
        published: sort all blocks of the sequence, which leaks.
        iterations: of the published sorting.
        temperature: of the published sorting; the lower, the nearer to a permutation.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    layers: int = tunable(2, (1, 2, 4), gt=0)
    block: int = tunable(16, (8, 16, 32, 64), gt=0)
    chosen: int = tunable(2, (1, 2, 4), gt=0)
    cut: bool = False
    published: bool = False
    iterations: int = Field(8, gt=0)
    temperature: float = Field(0.7, gt=0.0)
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if not self.published:
            return ""
        return "published = true lets blocks read blocks sorted from the whole sequence"


@dataclass(frozen=True)
class SinkhornState(State):
    """What a layer keeps.

    Attributes:
        keys: of all steps, not rotated.
        values: of all steps.
        total: sum of all queries.
        asked: by what the open block has chosen.
    """

    keys: Float[Tensor, "batch head slot size"]
    values: Float[Tensor, "batch head slot size"]
    total: Float[Tensor, "batch head size"]
    asked: Float[Tensor, "batch head size"]


class ChoosingAttention(nn.Module):
    """Attention to the own block and to chosen ones; see `kt_forecast.nn.stack.Mixing`."""

    def __init__(self, config: SinkhornConfig) -> None:
        super().__init__()
        self.heads, self.size = config.heads, config.width // config.heads
        self.block, self.chosen, self.cut = config.block, config.chosen, config.cut
        self.iterations, self.temperature = config.iterations, config.temperature
        self.published = config.published
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.rotary = Rotary(self.size)
        self.null = None
        if not config.published:
            self.null = nn.Parameter(torch.randn(2, self.heads, self.block, self.size))

    def init_state(self, batch: int) -> SinkhornState:
        """Return what is kept before the first step."""
        new = self.out.weight.new_zeros
        empty, one = new(batch, self.heads, 0, self.size), new(batch, self.heads, self.size)
        return SinkhornState(empty, empty, one, one)

    def forward(
        self, x: Float[Tensor, "batch time width"], state: SinkhornState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], SinkhornState]:
        """Return what each step read, and what is kept after the last."""
        q = self._split(self.query(x))
        k, v = (self._split(half) for half in self.key_value(x).chunk(2, -1))
        if self.null is None:
            return self.out(joined(self._sorted(q, k, v, span))), state
        grid = Grid.laid(span, self.block, 0)
        keys, values = appended(state.keys, k, span), appended(state.values, v, span)
        asked, total, left = self._asked(q, state, grid)
        number = grid.first[:, None] // self.block
        number = number + torch.arange(grid.segments, device=x.device)
        numbers, weights = self.choices(asked, self._told(keys), number)
        places = torch.arange(keys.shape[2], device=x.device)[None]
        read = [
            self._read(part, null, numbers, weights, number)
            for part, null in zip((self.rotary(keys, places), values), self.null, strict=True)
        ]
        columns = self._columns(self.rotary(q, span.position), grid)
        slot = torch.arange(self.block, device=x.device)
        visible = (slot <= slot[:, None]).new_ones(self.block, self.chosen * self.block)
        if not self.cut:
            visible = torch.cat([visible, slot <= slot[:, None]], 1)
        q, k, v = (part.flatten(0, 1) for part in (columns, *read))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        y = y.unflatten(0, columns.shape[:2])
        y = grid.steps(y.permute(0, 2, 3, 1, 4).flatten(3))
        return self.out(y.to(x.dtype)), SinkhornState(keys, values, total, left)

    def choices(
        self,
        asked: Float[Tensor, "batch head block size"],
        told: Float[Tensor, "batch head earlier size"],
        number: Int[Tensor, "#batch block"],
    ) -> tuple[Int[Tensor, "batch head block chosen"], Float[Tensor, "batch head block chosen"]]:
        """Choose earlier blocks for each block.

        Args:
            asked: by each block of this pass.
            told: by each block of the sequence.
            number: of the blocks of this pass.

        Returns:
            The chosen blocks' numbers, below zero for a null block; and their weights.
        """
        again = torch.is_grad_enabled() and asked.shape[2] > BLOCKS_AT_ONCE
        found = []
        for part, own in zip(
            asked.split(BLOCKS_AT_ONCE, 2), number.split(BLOCKS_AT_ONCE, 1), strict=True
        ):
            args = (part, told, own)
            found.append(
                checkpoint(self._choose, *args, use_reentrant=False)
                if again
                else self._choose(*args)
            )
        numbers, weights = (torch.cat(some, 2) for some in zip(*found, strict=True))
        return numbers, weights

    def _choose(self, asked: Tensor, told: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        logits = asked @ told.transpose(-1, -2) * self.size**-0.5
        earlier = torch.arange(told.shape[2], device=told.device) < number[:, None, :, None]
        logits = logits.masked_fill(~earlier, float("-inf"))
        logits = F.pad(logits, (self.chosen, 0))
        numbers, weights = [], []
        for _ in range(self.chosen):
            weight, place = logits.softmax(-1).max(-1, keepdim=True)
            logits = logits.scatter(-1, place, float("-inf"))
            numbers.append(place - self.chosen)
            weights.append(weight)
        return torch.cat(numbers, -1), torch.cat(weights, -1)

    def _asked(self, q: Tensor, state: SinkhornState, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean of all queries up to each block's first step, and what to keep of it."""
        span = grid.span
        real = span.real[:, None, :, None]
        sums = state.total[:, :, None] + (q * real).to(state.total.dtype).cumsum(2)
        mean = sums / (span.position + 1)[:, None, :, None]
        asked = self._columns(mean, grid)[:, :, :, 0]
        goes_on = (span.before % self.block > 0)[:, None, None]
        first = torch.where(goes_on, state.asked, asked[:, :, 0])
        asked = torch.cat([first[:, :, None], asked[:, :, 1:]], 2)
        last = (span.before + span.count - 1) // self.block - span.before // self.block
        last = last.clamp(0, asked.shape[2] - 1)[:, None, None, None]
        left = asked.gather(2, last.expand(-1, self.heads, 1, self.size))[:, :, 0]
        left = torch.where((span.count > 0)[:, None, None], left, state.asked)
        return asked.to(q.dtype), sums[:, :, -1], left

    def _told(self, keys: Tensor) -> Tensor:
        """Return the sum of the running means of the keys of each block."""
        count = torch.arange(1, keys.shape[2] + 1, device=keys.device)[:, None]
        means = keys.cumsum(2) / count
        return self._blocks(means).sum(3)

    def _read(
        self, x: Tensor, null: Tensor, numbers: Tensor, weights: Tensor, own: Tensor
    ) -> Tensor:
        """Return what each block reads: the chosen blocks, by their weights, and its own."""
        nulls = null[None, :, None].expand(len(x), -1, -1, -1, -1).to(x.dtype)
        blocks = torch.cat([nulls, self._blocks(x)], 2)
        place, weight = (numbers + 1).clamp_min(0), weights
        if not self.cut:
            mine = (own + 1).clamp_max(blocks.shape[2] - 1)[:, None, :, None]
            mine = mine.expand(len(x), self.heads, -1, -1)
            place = torch.cat([place, mine], -1)
            weight = torch.cat([weight, torch.ones_like(weight[..., :1])], -1)
        index = place.flatten(2)[..., None, None].expand(-1, -1, -1, self.block, self.size)
        read = blocks.gather(2, index).unflatten(2, place.shape[2:])
        return (read * weight[..., None, None].to(x.dtype)).flatten(3, 4)

    def _sorted(self, q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
        """Read sorted blocks of the whole sequence, as published."""
        real = self._blocks(span.real[:, None, :, None].expand_as(q)[..., :1])
        asked, told = (self._blocks(x * span.real[:, None, :, None]).sum(3) for x in (q, k))
        logits = asked @ told.transpose(-1, -2) * self.size**-0.5 / self.temperature
        full = real.any(3)[..., 0]
        alone = torch.eye(full.shape[2], dtype=torch.bool, device=q.device)
        pairs = (full[..., None] & full[..., None, :]) | alone
        order = balanced(logits.masked_fill(~pairs, float("-inf")), self.iterations).exp()
        q, k = self.rotary(q, span.position), self.rotary(k, span.position)
        q, k, v = (self._blocks(x) for x in (q, k, v))
        here = real.expand(len(q), self.heads, -1, -1, -1)
        there = torch.einsum("bhuv,bhvsd->bhusd", order, here.to(q.dtype)) > 0
        read = []
        for x in (k, v):
            far = torch.einsum("bhuv,bhvsd->bhusd", order, x * here)
            if self.cut:
                first = far[:, :, : self.chosen].flatten(2, 3)
                read.append(first[:, :, None].expand(-1, -1, x.shape[2], -1, -1))
            else:
                read.append(torch.cat([far, x], 3))
        if self.cut:
            visible = there[:, :, : self.chosen].flatten(2, 3)[:, :, None, :, 0]
            visible = visible.expand(-1, -1, q.shape[2], -1)
        else:
            visible = torch.cat([there, here], 3)[..., 0]
        logits = q @ read[0].transpose(-1, -2) * self.size**-0.5
        logits = logits.masked_fill(~visible[..., None, :], torch.finfo(q.dtype).min)
        return (logits.softmax(-1) @ read[1]).flatten(2, 3)[:, :, : span.length]

    def _blocks(self, x: Tensor) -> Tensor:
        """Cut time into blocks, completed by zeros."""
        return F.pad(x, (0, 0, 0, -x.shape[2] % self.block)).unflatten(2, (-1, self.block))

    def _columns(self, x: Tensor, grid: Grid) -> Tensor:
        """Put the pass's steps into their blocks: batch, head, block, step, size."""
        columns = grid.columns(joined(x)).unflatten(1, (-1, self.block))
        return columns.unflatten(-1, (self.heads, self.size)).permute(0, 3, 1, 2, 4)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.size)).transpose(1, 2)


def balanced(
    logits: Float[Tensor, "*batch row column"], iterations: int
) -> Float[Tensor, "*batch row column"]:
    """Return logarithms of a matrix whose rows and columns sum to one (Sinkhorn's iteration)."""
    for _ in range(iterations):
        logits = logits.log_softmax(-1).log_softmax(-2)
    return logits


def build(config: SinkhornConfig) -> Stack:
    """Return the mixer."""
    inner = config.expansion * config.width
    layers = [
        MixingLayer(ChoosingAttention(config), config.width, inner=inner, dropout=config.dropout)
        for _ in range(config.layers)
    ]
    return Stack(layers, nn.LayerNorm(config.width), leak=config.leak)


SYSTEM = System(
    family="sparse attention",
    config=SinkhornConfig,
    build=build,
    paper=Paper(
        title="Sparse Sinkhorn Attention",
        authors="Tay, Bahri, Yang, Metzler, Juan",
        year=2020,
        url="https://arxiv.org/abs/2002.11296",
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
