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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attention import Rotary, turned
from kt_forecast.nn.heads import joined
from kt_forecast.nn.relative import Grid
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span, appended
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

LOGITS_AT_ONCE = 2**24
"""Logits of pairs of blocks that are formed at a time."""


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
        columns = grid.columns(joined(q))
        asked, after = self._asked(columns, state, grid)
        number = grid.first[:, None] // self.block
        number = number + torch.arange(grid.segments, device=x.device)
        numbers, weights = self.choices(asked, self._told(keys), number)
        place = torch.arange(keys.shape[2], device=x.device)[None]
        there = self.rotary.angles(place, keys.dtype)
        if span.uniform and columns.shape[1] == keys.shape[2]:
            here = there
        else:
            place = torch.arange(columns.shape[1], device=x.device)
            here = self.rotary.angles(grid.first[:, None] + place, keys.dtype)
        q = self._blocks(turned(self._split(columns).to(keys.dtype), here))
        blocks = self._blocks(torch.cat([turned(keys, there), values], -1))
        nulls = torch.cat([*self.null.to(blocks.dtype)], -1)[None, :, None]
        blocks = torch.cat([nulls.expand(len(x), -1, -1, -1, -1), blocks], 2)
        own = number[:, None, :, None]
        # Blocks from their own on are never chosen; said in numbers, an audit can follow it.
        chosen = torch.minimum((numbers + 1).clamp_min(0), own)
        if not self.cut:
            mine = own.clamp_max(blocks.shape[2] - 2) + 1
            chosen = torch.cat([chosen, mine.expand(len(x), self.heads, -1, -1)], -1)
        y = read(q, blocks, chosen, weights.to(keys.dtype))
        y = grid.steps(y.permute(0, 2, 3, 1, 4).flatten(3))
        return self.out(y.to(x.dtype)), SinkhornState(keys, values, *after)

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
        numbers, logits, rest = _Chosen.apply(  # type: ignore[no-untyped-call]
            asked * self.size**-0.5, told.to(asked.dtype), number, self.chosen
        )
        weights = []
        for logit in reversed(logits.unbind(-1)):
            weights.append((logit - rest).sigmoid())
            rest = torch.logaddexp(rest, logit)
        return numbers, torch.stack(weights[::-1], -1)

    def _asked(
        self, columns: Tensor, state: SinkhornState, grid: Grid
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the mean of all queries up to each block's first step, and what to keep of it."""
        span, exact = grid.span, state.total.dtype
        blocks = columns.unflatten(1, (-1, self.block))
        first = blocks[:, :, 0].to(exact)
        if not span.whole:
            real = grid.columns(span.real[..., None].to(columns.dtype))
            blocks = blocks * real.unflatten(1, (-1, self.block))
        sums = torch.cat([state.total.flatten(1)[:, None], blocks.sum(2, dtype=exact)], 1)
        total = sums.cumsum(1)
        step = torch.arange(grid.segments, device=columns.device) * self.block
        count = grid.first[:, None] + step + 1
        asked = self._split((total[:, :-1] + first) / count[..., None])
        if not (isinstance(grid.shift, int) and grid.shift == 0):
            goes_on = (span.before % self.block > 0)[:, None, None]
            begun = torch.where(goes_on, state.asked, asked[:, :, 0])
            asked = torch.cat([begun[:, :, None], asked[:, :, 1:]], 2)
        if span.ends:
            return asked, (state.total, state.asked)
        last = (span.before + span.count - 1) // self.block - span.before // self.block
        last = last.clamp(0, asked.shape[2] - 1)[:, None, None, None]
        left = asked.gather(2, last.expand(-1, self.heads, 1, self.size))[:, :, 0]
        left = torch.where((span.count > 0)[:, None, None], left, state.asked)
        return asked, (total[:, -1].unflatten(1, (self.heads, self.size)), left)

    def _told(self, keys: Tensor) -> Tensor:
        """Return the sum of the running means of the keys of each block."""
        blocks = self._blocks(keys)
        count = torch.arange(blocks.shape[2] * self.block, dtype=keys.dtype, device=keys.device) + 1
        share = count.reciprocal_().unflatten(0, (-1, self.block))
        # A key counts in the means from its own step on; one of an earlier block in all of them.
        since = share.flip(1).cumsum(1).flip(1)[..., None]
        before = F.pad(blocks.sum(3), (0, 0, 1, -1)).cumsum(2)
        return (blocks * since).sum(3) + before * since[:, 0]

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

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.size)).transpose(1, 2)


def read(
    q: Float[Tensor, "batch head block step size"],
    blocks: Float[Tensor, "batch head earlier step both"],
    place: Int[Tensor, "batch head block some"],
    weight: Float[Tensor, "batch head block chosen"],
) -> Float[Tensor, "batch head block step size"]:
    """Return what the steps of each block read of the blocks that it has chosen.

    Args:
        q: queries.
        blocks: keys and values, side by side.
        place: of the blocks that each block reads: the chosen ones, and it itself if it does.
        weight: what keys and values of the chosen are multiplied by.
    """
    with torch.autocast(q.device.type, enabled=False):
        y: Tensor = _Read.apply(q, blocks, place, weight)  # type: ignore[no-untyped-call]
    return y


class _Read(torch.autograd.Function):
    """Attention of which only the weights are kept, and no copy of a block."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, blocks: Tensor, place: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401
        steps, some = q.shape[3], place.shape[3]
        row = torch.arange(place[:, :, 0, 0].numel(), device=q.device) * blocks.shape[2]
        place = (place + row.reshape(*place.shape[:2], 1, 1)).flatten()
        own = some - weight.shape[3]
        weight = F.pad(weight, (0, own), value=1.0).repeat_interleave(steps, 3).flatten(0, 2)
        asking, weight = q.flatten(0, 2), weight[:, None]
        key, value = _picked(blocks, place, some)
        share = torch.bmm(asking, key.mT).mul_(weight * q.shape[4] ** -0.5)
        if own:
            later = torch.ones(steps, steps, dtype=torch.bool, device=q.device).triu_(1)
            share[..., -steps:].masked_fill_(later, float("-inf"))
        share = share.softmax(-1)
        ctx.save_for_backward(asking, blocks, place, weight, share)
        ctx.shape = (*q.shape[:3], some, own)
        return torch.bmm(share * weight, value).unflatten(0, q.shape[:3])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        asking, blocks, place, weight, share = ctx.saved_tensors
        with torch.autocast(slope.device.type, enabled=False):
            *shape, some, own = ctx.shape
            slope = slope.flatten(0, 2)
            key, value = _picked(blocks, place, some)
            to_value = torch.bmm((share * weight).mT, slope)
            to_share = torch.bmm(slope, value.mT)
            to_weight = to_share * share
            to_share = to_share.mul_(weight)
            to_logit = torch.ops.aten._softmax_backward_data(to_share, share, -1, share.dtype)  # noqa: SLF001
            to_logit = to_logit.mul_(asking.shape[2] ** -0.5)
            to_weight = to_weight.addcmul_(torch.bmm(asking, key.mT), to_logit).sum(1)
            to_logit = to_logit.mul_(weight)
            to_both = torch.cat([torch.bmm(to_logit.mT, asking), to_value], -1)
            to_blocks = torch.zeros_like(blocks).flatten(0, 2)
            to_blocks.index_add_(0, place, to_both.reshape(-1, *blocks.shape[3:]))
            to_weight = to_weight.unflatten(1, (some, -1)).sum(2)[:, : some - own]
            to_q = torch.bmm(to_logit, key).unflatten(0, shape)
            return to_q, to_blocks.reshape_as(blocks), None, to_weight.unflatten(0, shape)


def _picked(blocks: Tensor, place: Tensor, some: int) -> tuple[Tensor, Tensor]:
    """Return keys and values of the blocks that each block reads."""
    both = blocks.flatten(0, 2).index_select(0, place)
    key, value = both.reshape(-1, some * both.shape[1], both.shape[2]).chunk(2, -1)
    return key, value


class _Chosen(torch.autograd.Function):
    """The earlier blocks of highest logits, their logits, and what those of the rest add up to.

    Logits of all pairs of blocks are formed for a few blocks at a time, and again for the slopes.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        asked: Tensor,
        told: Tensor,
        number: Tensor,
        chosen: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        parts = []
        for some in _few(asked, told):
            logits = _logits(asked[:, :, some], told, number[:, some], chosen)
            highest, place = logits.topk(chosen)
            rest = logits.scatter_(-1, place, float("-inf")).logsumexp(-1)
            parts.append((place - chosen, highest, rest))
        numbers, highest, rest = (torch.cat(part, 2) for part in zip(*parts, strict=True))
        ctx.save_for_backward(asked, told, number, numbers, rest)
        ctx.mark_non_differentiable(numbers)
        return numbers, highest, rest

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        _: Tensor,
        to_highest: Tensor,
        to_rest: Tensor,
    ) -> tuple[Tensor | None, ...]:
        asked, told, number, numbers, rest = ctx.saved_tensors
        chosen = numbers.shape[3]
        place, rest = numbers + chosen, rest.masked_fill(rest == float("-inf"), 0.0)
        to_asked, to_told = [], torch.zeros_like(told)
        for some in _few(asked, told):
            logits = _logits(asked[:, :, some], told, number[:, some], chosen)
            slope = logits.sub_(rest[:, :, some, None]).exp_().mul_(to_rest[:, :, some, None])
            slope = slope.scatter_(-1, place[:, :, some], to_highest[:, :, some])[..., chosen:]
            with torch.autocast(slope.device.type, enabled=False):
                to_asked.append(slope @ told)
                to_told += slope.mT @ asked[:, :, some]
        return torch.cat(to_asked, 2), to_told, None, None


def _few(asked: Tensor, told: Tensor) -> Iterator[slice]:
    """Yield which blocks choose at a time."""
    each = told[..., 0].numel()
    some = max(LOGITS_AT_ONCE // max(each, 1), 1)
    for low in range(0, asked.shape[2], some):
        yield slice(low, low + some)


def _logits(asked: Tensor, told: Tensor, number: Tensor, nulls: int) -> Tensor:
    """Return logits of null blocks and of the earlier blocks."""
    later = torch.arange(told.shape[2], device=told.device) >= number[:, None, :, None]
    with torch.autocast(asked.device.type, enabled=False):
        logits = (asked @ told.mT).masked_fill_(later, float("-inf"))
    return F.pad(logits, (nulls, 0))


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
