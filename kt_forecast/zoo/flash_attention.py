"""Exact attention by whichever kernel is fastest: FlashAttention, FlexAttention, blocks on the CPU.

FlashAttention changes no result: it forms softmax tile by tile and never holds the weights of all
pairs of steps. Here a pattern says which earlier steps are read, and a dispatcher finds the kernel
for device, type and length (`kt_forecast.nn.attend`). Sequences that follow each other in one row
are attended in one pass, each for itself.

Departures from the paper:
    - the kernels are torch's; the CPU's training goes through blocks, for FlexAttention has no
      backward pass there;
    - attention weights are never dropped; rotary positions;
    - windows, strides and tables of blocks are those of the project, the paper's masks are causal.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attend import Kernel, attend, attend_cached
from kt_forecast.nn.gathered import GatheredAttention, steps_of
from kt_forecast.nn.heads import Heads, Kept, Packed, WindowAttention, begins
from kt_forecast.nn.stack import Mixing, MixingLayer, Stack, StackState
from kt_forecast.nn.streams import Span, appended
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, System


class FlashAttentionConfig(HeadsConfig):
    """Settings of `flash_attention`.

    Attributes:
        pattern: ``causal``: all earlier steps; ``window``: the latest; ``dilated``: as many, in
            strides; ``blocks``: the first block of steps, the own one and the one before it.
        window: steps that are read, the own one included, or of a block.
        dilation: strides of the dilated pattern.
        kernel: ``auto``: the fastest for device and length, which for short sequences is exact
            attention with a written mask; or one of `kt_forecast.nn.attend` by name.
        layers: attention and feed-forward pairs.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    pattern: Literal["causal", "window", "dilated", "blocks"] = tunable(
        "causal", ("causal", "window", "dilated", "blocks")
    )
    window: int = tunable(64, (16, 32, 64, 128), gt=0)
    dilation: int = tunable(4, (2, 4, 8), gt=0)
    kernel: Kernel = "auto"
    layers: int = tunable(1, (1, 2, 4), gt=0)
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


class FullAttention(Heads):
    """Attention to all earlier steps; see `kt_forecast.nn.stack.Mixing`."""

    def __init__(self, width: int, heads: int, *, kernel: Kernel) -> None:
        super().__init__(width, heads)
        self.kernel = kernel

    def init_state(self, batch: int) -> Kept:
        """Return an empty cache."""
        return self.kept(batch, 0)

    def forward(
        self, x: Float[Tensor, "batch time width"], state: Kept, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], Kept]:
        """Return what each step read, and the cache with its key and value; slot i holds step i."""
        query, key, value = self.mapped(x, span)
        if isinstance(span, Packed):
            y = attend(query, key, value, document=span.document, kernel=self.kernel)
            return self.merged(y), state
        if span.ends:
            return self.merged(attend(query, key, value, kernel=self.kernel)), state
        after = appended(state[:, None], self.beside(key, value)[:, None], span)[:, 0]
        if begins(span):
            return self.merged(attend(query, key, value, kernel=self.kernel)), after
        return self.merged(attend_cached(query, *self.halves(after), span.position)), after


@dataclass(frozen=True)
class Blocks:
    """The table of blocks: the first, the one before, the own one."""

    size: int

    def __call__(self, number: Int[Tensor, "row block"]) -> Int[Tensor, "row 1 block some"]:
        """Return the places of the steps that blocks read."""
        before = (number - 1).where(number > 1, -1)
        first = torch.zeros_like(number).where(number > 0, -1)
        return steps_of(torch.stack([first, before, number], -1), self.size)[:, None]


class FlashAttention(Stack):
    """Layers of exact attention; see `kt_forecast.nn.system.Mixer`."""

    def __init__(self, config: FlashAttentionConfig) -> None:
        inner = config.expansion * config.width
        layers = [
            MixingLayer(mixing(config), config.width, inner=inner, dropout=config.dropout)
            for _ in range(config.layers)
        ]
        super().__init__(layers, nn.LayerNorm(config.width))
        self.packs = config.pattern != "blocks"

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: StackState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], StackState | None]:
        """Mix the steps of ``x``; see `Stack.forward`.

        Without a state, sequences that follow each other in a row are documents of one pass.
        """
        if state is not None or reset is None or not self.packs:
            return super().forward(x, state, valid=valid, reset=reset)
        sequence = reset.cumsum(1)
        if valid is None:
            return self._run(x, self.init_state(len(x)), Packed.of(sequence))[0], None
        order = (~valid).int().argsort(dim=1, stable=True)
        # Padding stands on the right, as a document of its own.
        sequence = sequence.where(valid, sequence[:, -1:] + 1).gather(1, order)
        place = order[..., None].expand_as(x)
        y, _ = self._run(x.gather(1, place), self.init_state(len(x)), Packed.of(sequence))
        return torch.zeros_like(y).scatter(1, place, y), None


def mixing(config: FlashAttentionConfig) -> Mixing:
    """Return the attention of a layer."""
    width, heads = config.width, config.heads
    if config.pattern == "causal":
        return FullAttention(width, heads, kernel=config.kernel)
    if config.pattern == "blocks":
        table = Blocks(config.window)
        return GatheredAttention(width, heads, block=config.window, table=table, reach=None)
    dilation = config.dilation if config.pattern == "dilated" else 1
    return WindowAttention(
        width, heads, window=config.window, dilation=dilation, kernel=config.kernel
    )


SYSTEM = System(
    family="decoder",
    config=FlashAttentionConfig,
    build=FlashAttention,
    paper=Paper(
        title="FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
        authors="Dao, Fu, Ermon, Rudra, Re",
        year=2022,
        url="https://arxiv.org/abs/2205.14135",
    ),
    promises=Promises(
        causality="step",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=2, training_bytes=1, step_flops=1, state_bytes=1),
    ),
    tracing={"scheme": "shifted"},
    forecasting={"dense": True},
)
