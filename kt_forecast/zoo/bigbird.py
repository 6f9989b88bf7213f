"""BigBird: each block of steps reads a window of blocks, a few global ones, and a few at random.

As published the first and the last block read every step and are read by every step, half of the
window lies ahead, and random blocks may too. So each step reads the end of its sequence, and what
it reads depends on how long that is. Here a block reads itself and earlier blocks only: the whole
window lies behind, random blocks are drawn from those already closed, and the global blocks are the
first of the sequence, which like all others read their own past alone. Which random blocks a block
reads is a hash of seed, layer, head and the block's number, so that a longer sequence draws no
others. ``published=True`` gives the published reading, to show what it reveals; it may not be
trained for knowledge tracing or for forecasts from every origin.

Departures from the paper:
    - no step reads a later one, as said above; the last block is not global;
    - rotary positions instead of learned ones, so that length is unbounded;
    - two layers and short blocks by default, and normalised copies are read (pre-norm);
    - no further global tokens (their extended construction): ETC is a system of its own;
    - attention weights are never dropped.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.gathered import UNUSED, GatheredAttention, gathered, steps_of
from kt_forecast.nn.heads import joined
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, System

BITS = 2**32 - 1
"""Largest number of the hash."""


class BigBirdConfig(HeadsConfig):
    """Settings of BigBird.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width`` into even sizes.
        block: steps of a block.
        window: latest blocks that a block reads, itself included; as published as many on either
            side of it as there are in half of them.
        global_blocks: first blocks, which every block reads; as published one at either end.
        random_blocks: earlier blocks drawn for each block and head.
        seed: of the drawing.
        published: let blocks read later ones, which leaks.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    layers: int = tunable(2, (1, 2, 4), gt=0)
    block: int = tunable(16, (8, 16, 32, 64), gt=0)
    window: int = tunable(3, (2, 3, 5), gt=0)
    global_blocks: int = tunable(1, (0, 1, 2), ge=0)
    random_blocks: int = tunable(3, (0, 1, 3), ge=0)
    seed: int = 0
    published: bool = False
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        return "BigBird as published (published=true) reads later blocks" if self.published else ""


@dataclass(frozen=True)
class Blocks:
    """Which blocks a layer's blocks read.

    Attributes:
        config: numbers of them.
        layer: number of the layer.
    """

    config: BigBirdConfig
    layer: int

    def __call__(self, number: Int[Tensor, "row block"]) -> Int[Tensor, "row head block step"]:
        """Return the places of the steps that blocks read, for each head."""
        return steps_of(self.earlier(number), self.config.block)

    def earlier(self, number: Int[Tensor, "row block"]) -> Int[Tensor, "row head block some"]:
        """Return the blocks that blocks read, none of them later; -1 for none."""
        config, device = self.config, number.device
        near = number[..., None] - torch.arange(config.window, device=device)
        least = near[..., -1:]
        first = torch.arange(config.global_blocks, device=device).expand(*number.shape, -1)
        fixed = torch.cat([first.where(first < least, UNUSED), near.clamp_min(UNUSED)], -1)
        closed = (least[..., 0] - config.global_blocks).clamp_min(0)
        chosen = self.drawn(number, closed)
        chosen = chosen.where(chosen < 0, chosen + config.global_blocks)
        return torch.cat([fixed[:, None].expand(-1, config.heads, -1, -1), chosen], -1)

    def around(self, blocks: int, device: torch.device) -> Int[Tensor, "1 head block some"]:
        """Return the blocks that each of ``blocks`` reads as published; -1 for none."""
        config = self.config
        number = torch.arange(blocks, device=device)[None]
        half = config.window // 2
        near = number[..., None] + torch.arange(-half, half + 1, device=device)
        ends = torch.tensor([0, blocks - 1], device=device).expand(*number.shape, -1)
        taken = (near.min(-1, keepdim=True).values <= ends) & (
            ends <= near.max(-1, keepdim=True).values
        )
        ends = ends.masked_fill(taken, UNUSED)
        near = near.where((near >= 0) & (near < blocks), UNUSED)
        fixed = torch.cat([ends, near], -1)[:, None].expand(-1, config.heads, -1, -1)
        low = (number - half).clamp_min(1)
        high = (number + half + 1).clamp_max(blocks - 1).maximum(low)
        there = (blocks - 2 - (high - low)).clamp_min(0)
        chosen = self.drawn(number, there) + 1
        chosen = torch.where(
            chosen >= low[:, None, :, None], chosen + (high - low)[:, None, :, None], chosen
        )
        return torch.cat([fixed, chosen.where(chosen > 0, UNUSED)], -1)

    def drawn(
        self, number: Int[Tensor, "row block"], among: Int[Tensor, "row block"]
    ) -> Int[Tensor, "row head block some"]:
        """Draw different numbers below ``among`` for each block and head; -1 where there are none.

        Floyd's way: the one drawn last is taken where a number was drawn already.
        """
        head = torch.arange(self.config.heads, device=number.device)
        key = hashed(hashed(hashed(head + 1) + self.layer) + self.config.seed)
        key = hashed(key[:, None] + number[:, None])
        wanted = self.config.random_blocks
        found = key.new_full((*key.shape, wanted), UNUSED)
        for i in range(wanted):
            below = (among - wanted + i + 1)[:, None]
            one = hashed(key + i + 1) % below.clamp_min(1)
            again = (found == one[..., None]).any(-1)
            found[..., i] = torch.where(again, below - 1, one).where(below > 0, UNUSED)
        return found


def hashed(x: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """Return numbers that look random, the same for the same numbers (Wellons' ``lowbias32``)."""
    x = x & BITS
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & BITS
    x = ((x ^ (x >> 15)) * 0x846CA68B) & BITS
    return x ^ (x >> 16)


class Published(GatheredAttention):
    """Attention of blocks to blocks on either side, which leaks."""

    def __init__(self, width: int, heads: int, blocks: Blocks) -> None:
        super().__init__(width, heads, block=blocks.config.block, table=blocks, reach=None)
        self.blocks = blocks

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: Float[Tensor, "batch kept both"],
        span: Span,
    ) -> tuple[Float[Tensor, "batch time width"], Float[Tensor, "batch kept both"]]:
        """Return what each step read of all of its sequence; there is no stream."""
        steps = x.shape[1]
        q, k, v = self.mapped(x, span)
        blocks = -(-steps // self.block)
        missing = blocks * self.block - steps
        # All steps of a row count as past, and padding as future.
        last = (span.count - 1).clamp_min(0)[:, None, None].expand(-1, blocks, self.block)
        parts = F.pad(q, (0, 0, 0, missing)).unflatten(2, (-1, self.block))
        read = steps_of(self.blocks.around(blocks, x.device), self.block)
        y = gathered(parts, k, v, last, read, torch.zeros_like(span.before[:1]))
        y = y.flatten(2, 3)[:, :, :steps]
        seen = span.real[:, None, None]
        for low in {0, (blocks - 1) * self.block}:
            high = min(low + self.block, steps)
            whole = F.scaled_dot_product_attention(q[:, :, low:high], k, v, attn_mask=seen)
            y = torch.cat([y[:, :, :low], whole, y[:, :, high:]], 2)
        return self.out(joined(y)), state


def build(config: BigBirdConfig) -> Stack:
    """Return the mixer."""
    width, inner = config.width, config.expansion * config.width
    layers = []
    for number in range(config.layers):
        blocks = Blocks(config, number)
        mixing = (
            Published(width, config.heads, blocks)
            if config.published
            else GatheredAttention(
                width, config.heads, block=config.block, table=blocks, reach=None
            )
        )
        layers.append(MixingLayer(mixing, width, inner=inner, dropout=config.dropout))
    return Stack(layers, nn.LayerNorm(width), leak=config.leak)


SYSTEM = System(
    family="sparse attention",
    config=BigBirdConfig,
    build=build,
    paper=Paper(
        title="Big Bird: Transformers for Longer Sequences",
        authors="Zaheer, Guruganesh, Dubey, Ainslie, Alberti, Ontanon, Pham, Ravula, Wang, Yang, "
        "Ahmed",
        year=2020,
        url="https://arxiv.org/abs/2007.14062",
    ),
    promises=Promises(
        causality="step by change",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=1, training_bytes=1, step_flops=0, state_bytes=1),
    ),
    tracing={"scheme": "shifted"},
    forecasting={"dense": True},
)
