"""Sparse Transformer: each step reads a stretch nearby and a grid of steps far back.

Strided: the latest steps, and every step that lies a whole number of strides back. Fixed: the own
block of steps, and the last few steps of every block. Two layers, one of each, join every step to
all before it, for the cost of the square root of the length if the stride is near it. The two
sets are read by layers in turn, by one softmax over both, or by one half of the heads each.

Departures from the paper:
    - in the fixed pattern all heads read the same steps of a block, and a step that may not yet
      read any of them reads nothing far back;
    - what is read is cut to the exact sets, where the published kernels work on blocks of 32;
    - rotary positions instead of learned ones; two layers by default; no recomputation of layers.
"""

from typing import Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attend import attend
from kt_forecast.nn.gathered import gathered
from kt_forecast.nn.heads import Heads, Kept, OfHeads, begins
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span, appended
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, System

LOGITS_AT_ONCE = 2**27
"""Logits of merged readings that are there at once; all are formed again for the backward pass."""

Reading = Literal["near", "far", "both"]
"""Which of the two sets is read; ``both`` in one softmax, each step once."""


class SparseTransformerConfig(HeadsConfig):
    """Settings of `sparse_transformer`.

    Attributes:
        stride: steps of a stretch, and between two steps far back.
        pattern: ``strided``, or ``fixed``: by blocks of ``stride`` steps.
        summary: last steps of a block that later blocks read, in the fixed pattern.
        reading: ``alternating``: near and far layers in turn; ``merged``: one softmax over both;
            ``heads``: near and far heads in every layer.
        layers: attention and feed-forward pairs.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    stride: int = tunable(32, (16, 32, 64, 128), gt=0)
    pattern: Literal["strided", "fixed"] = tunable("strided", ("strided", "fixed"))
    summary: int = tunable(4, (1, 4, 8), gt=0)
    reading: Literal["alternating", "merged", "heads"] = tunable(
        "alternating", ("alternating", "merged", "heads")
    )
    layers: int = tunable(2, (2, 4), gt=0)
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _heads_make_halves(self) -> Self:
        if self.reading == "heads" and self.heads % 2:
            raise ValueError(f"heads must be even for reading='heads', got heads={self.heads}")
        return self

    @model_validator(mode="after")
    def _summary_fits(self) -> Self:
        if self.pattern == "fixed" and self.summary > self.stride:
            raise ValueError(
                f"summary may not exceed stride, got summary={self.summary} stride={self.stride}"
            )
        return self


class SparseAttention(Heads):
    """Attention to a stretch, to a grid, or to both; see `kt_forecast.nn.stack.Mixing`.

    Args:
        config: of the system.
        readings: what groups of heads read, of equal size.
    """

    def __init__(self, config: SparseTransformerConfig, readings: tuple[Reading, ...]) -> None:
        super().__init__(config.width, config.heads)
        self.stride, self.fixed = config.stride, config.pattern == "fixed"
        self.summary, self.readings = config.summary, readings

    def init_state(self, batch: int) -> Kept:
        """Return an empty cache."""
        return self.kept(batch, 0)

    def forward(
        self, x: Float[Tensor, "batch time width"], state: Kept, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], Kept]:
        """Return what each step read, and the cache with its key and value; slot i holds step i."""
        query, key, value = self.mapped(x, span)
        after, first = state, begins(span)
        if not span.ends:
            after = appended(state[:, None], self.beside(key, value)[:, None], span)[:, 0]
        if not first:
            key, value = self.halves(after)
        count = self.heads // len(self.readings)
        groups = (t.split(count, 1) for t in (query, key, value))
        parts = []
        for reading, q, k, v in zip(self.readings, *groups, strict=True):
            if not first:
                parts.append(self._one_by_one(q, k, v, reading, span))
            elif self.fixed:
                parts.append(self._by_blocks(q, k, v, reading))
            elif reading == "both":
                parts.append(strided(q, k, v, self.stride))
            elif reading == "near":
                parts.append(attend(q, k, v, self.stride))
            else:
                parts.append(attend(q, k, v, dilation=self.stride))
        return self.merged(torch.cat(parts, 1)), after

    def reads(
        self, place: Int[Tensor, "*batch"], reading: Reading, most: int
    ) -> Int[Tensor, "*batch some"]:
        """Return the places of the steps that steps may read, those after them to be left out.

        Args:
            place: of steps; in the fixed pattern all steps of a block read alike.
            reading: which set.
            most: greatest place that there is.
        """
        stride, place = self.stride, place[..., None]
        back = torch.arange(stride, device=place.device)
        block = torch.arange(most // stride + 1, device=place.device)
        if self.fixed:
            near = place // stride * stride + back
            column = block[:, None] * stride + back[-self.summary :]
            far = column.flatten().expand(*place.shape[:-1], -1)
            apart = far // stride < place // stride
        else:
            near, far = place - back, place - block * stride
            apart = far < place
        sets = {"near": (near,), "far": (far,), "both": (near, far.where(apart, -1))}
        return torch.cat(sets[reading], -1).clamp_min(-1)

    def _by_blocks(self, query: OfHeads, key: OfHeads, value: OfHeads, reading: Reading) -> OfHeads:
        """Read in the fixed pattern, from the beginning: a block's steps read alike."""
        steps = query.shape[2]
        blocks = F.pad(query, (0, 0, 0, -steps % self.stride)).unflatten(2, (-1, self.stride))
        place = torch.arange(blocks.shape[2] * self.stride, device=query.device)
        place = place.unflatten(0, (-1, self.stride))[None]
        read = self.reads(place[..., 0], reading, steps - 1)
        read = read.where(read < steps, -1)[:, None]
        y = gathered(blocks, key, value, place, read, place[:, 0, 0], keep=False)
        return y.flatten(2, 3)[:, :, :steps]

    def _one_by_one(
        self, query: OfHeads, key: OfHeads, value: OfHeads, reading: Reading, span: Span
    ) -> OfHeads:
        """Read from a cache, each step its own slots."""
        place = span.position
        read = self.reads(place, reading, key.shape[2] - 1)[:, None]
        first = torch.zeros_like(span.before)
        y = gathered(query[:, :, :, None], key, value, place[..., None], read, first)
        return y[:, :, :, 0]


def strided(query: OfHeads, key: OfHeads, value: OfHeads, stride: int) -> OfHeads:
    """Return what one softmax reads: the latest ``stride`` steps, and the grid before them."""
    steps = query.shape[2]
    q, k, v = (
        F.pad(t, (0, 0, 0, -steps % stride)).unflatten(2, (-1, stride)) for t in (query, key, value)
    )
    each = q.shape[0] * q.shape[1] * stride * (2 * stride + q.shape[2])
    some, pieces = max(1, LOGITS_AT_ONCE // each), []
    for low in range(0, q.shape[2], some):
        high = min(low + some, q.shape[2])
        args = (q[:, :, low:high], k[:, :, :high], v[:, :, :high])
        if torch.is_grad_enabled():
            pieces.append(
                checkpoint(_near_and_far, *args, use_reentrant=False, preserve_rng_state=False)
            )
        else:
            pieces.append(_near_and_far(*args))
    y = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)
    return y.flatten(2, 3)[:, :, :steps]


def _near_and_far(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Read for the last blocks of some: batch, head, block, phase, size."""
    blocks, stride = query.shape[2:4]
    count = key.shape[2]
    number = torch.arange(count - blocks, count, device=query.device)[:, None, None]
    phase = torch.arange(stride, device=query.device)
    slot = torch.arange(2 * stride, device=query.device) - stride

    def pairs(x: Tensor) -> Tensor:
        before = F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, -blocks - 1 : -1]
        return torch.cat([before, x[:, :, -blocks:]], 3)

    ago = phase[:, None] - slot
    hidden = (ago < 0) | (ago >= stride) | (number * stride + slot < 0)
    near = (query @ pairs(key).mT).masked_fill(hidden, float("-inf"))
    far = torch.einsum("bhnrd, bhmrd -> bhnrm", query, key)
    later = torch.arange(count, device=query.device) >= number
    logits = torch.cat([near, far.masked_fill(later, float("-inf"))], -1)
    weight = (logits * query.shape[-1] ** -0.5).softmax(-1)
    at = near.shape[-1]
    of_far = torch.einsum("bhnrm, bhmrd -> bhnrd", weight[..., at:], value)
    return weight[..., :at] @ pairs(value) + of_far


def build(config: SparseTransformerConfig) -> Stack:
    """Return the mixer."""
    inner = config.expansion * config.width
    layers = [
        MixingLayer(
            SparseAttention(config, readings(config, i)),
            config.width,
            inner=inner,
            dropout=config.dropout,
        )
        for i in range(config.layers)
    ]
    stack = Stack(layers, nn.LayerNorm(config.width))
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                parameter.mul_((2 * config.layers) ** -0.5)
    return stack


def readings(config: SparseTransformerConfig, layer: int) -> tuple[Reading, ...]:
    """Return what equal groups of a layer's heads read; near layers stand before far ones."""
    if config.reading == "merged":
        return ("both",)
    if config.reading == "heads":
        return ("near", "far")
    return ("far",) if layer % 2 else ("near",)


SYSTEM = System(
    family="sparse attention",
    config=SparseTransformerConfig,
    build=build,
    paper=Paper(
        title="Generating Long Sequences with Sparse Transformers",
        authors="Child, Gray, Radford, Sutskever",
        year=2019,
        url="https://arxiv.org/abs/1904.10509",
    ),
    promises=Promises(
        causality="step",
        streaming=True,
        two_streams=False,
        cost=Cost(
            training_flops=1.5, training_bytes=1, step_flops=0.5, state_bytes=1, root="stride"
        ),
    ),
    tracing={"scheme": "shifted"},
    forecasting={"dense": True},
)
