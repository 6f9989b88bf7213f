"""Informer: attention for few queries, and fewer steps from layer to layer.

Between two layers of attention a convolution and a pooling shorten the sequence (distilling). As
published the network maps a window to its horizon and reads the window in both directions. The
default here is a redesign as a mixer of steps whose output depends on the steps so far alone, so
that it serves knowledge tracing and forecasts from every origin; ``published`` asks for the network
as it was, a direct forecaster.

Departures from the paper:
    - sampled keys stand in a table made once, so that a prediction is a function of its input;
      the paper draws them anew in every call, when predicting too;
    - attention weights are never dropped, and the feed-forward network drops its result only;
    - past covariates and facts of a series are embedded as well, beside values and calendar.

Further departures of the mixer, without which it would see the future:
    - keys are sampled from the past, by a table of hashed positions;
    - a query's rank is taken among earlier queries, in blocks that double in length;
    - queries that do not attend take the mean of the values so far, the paper's mask their sum;
    - convolutions look back only, and layer normalisation replaces that of the batch;
    - a pooled token ends at the step that makes it, and is read from that step on;
    - heads are not mixed with time, as the paper's decoder does;
    - every level is read back at the full rate and added; rotary positions, so that length is
      unbounded. There is no decoder.

``pooling="published"`` keeps all of these but those of the convolution, the normalisation and the
pooling: it shows what the published distilling reveals, and may not be used to predict.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.errors import InputError
from kt_forecast.nn.feedforward import FeedForward
from kt_forecast.nn.probsparse import ProbSparse, Seen
from kt_forecast.nn.rates import held, latest, trailing
from kt_forecast.nn.streams import Span, in_turn
from kt_forecast.nn.system import Cost, Paper, Promises, State, System, SystemConfig
from kt_forecast.sequences.series import Window, WindowShape

KERNEL = 3
"""Steps that a convolution reads."""


class InformerConfig(SystemConfig):
    """Settings of `Informer` and of `PublishedInformer`.

    Attributes:
        published: build the network as published, which forecasts directly.
        pooling: of the mixer; ``published`` leaks, and is there to show it.
        width: numbers in a step's vector.
        layers: layers of attention in the encoder; distilling stands between two of them.
        heads: attention heads; must divide ``width`` into even sizes.
        factor: how many queries attend, in multiples of the logarithm of the length.
        samples: keys that a query of the mixer is measured by; the published network takes as many
            as queries attend.
        stride: how many times shorter a layer is than the one before.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
        stacks: of the published network: layers of each encoder of a pyramid, the first of which
            reads the whole context and each further one its last half; empty for one encoder.
        decoder_layers: of the published network.
        start: steps of the context that its decoder starts from; None for half of them.
        mix: let its decoder mix heads with time.
    """

    published: bool = False
    pooling: Literal["causal", "published"] = "causal"
    width: int = tunable(64, (32, 64, 128, 256), gt=0)
    layers: int = tunable(2, (1, 2, 3), gt=0)
    heads: int = tunable(4, (2, 4, 8), gt=0)
    factor: int = tunable(5, (1, 3, 5, 10), ge=0)
    samples: int = Field(24, gt=0)
    stride: int = tunable(2, (2, 3, 4), gt=0)
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.05, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)
    stacks: tuple[int, ...] = ()
    decoder_layers: int = Field(1, gt=0)
    start: int | None = Field(None, gt=0)
    mix: bool = True

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"heads must divide width into even sizes, got heads={self.heads} "
                f"width={self.width}"
            )
        if (self.published or self.pooling == "published") and self.stride != 2:
            raise ValueError(f"the published pooling has stride 2, got stride={self.stride}")
        return self

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if self.published:
            return "Informer as published (published=true) reads its whole window at every step"
        if self.pooling == "published":
            return "Informer's published distilling (pooling='published') reads later steps"
        return ""


@dataclass(frozen=True)
class DistilState(State):
    """What a distilling keeps of the steps before.

    Attributes:
        entered: the latest steps, which the next convolution reads too.
        convolved: the latest convolved steps, which the next token is made of too.
        token: what came of the newest token.
    """

    entered: Float[Tensor, "batch entered width"]
    convolved: Float[Tensor, "batch convolved width"]
    token: Float[Tensor, "batch width"]


@dataclass(frozen=True)
class InformerState(State):
    """What every layer and every distilling keeps, and how many steps each row has seen."""

    position: Int[Tensor, " batch"]
    layers: tuple[Seen, ...]
    distilling: tuple[DistilState, ...]


class Added(nn.Module):
    """What follows attention in a layer: add, normalise, feed forward, add, normalise."""

    def __init__(self, config: InformerConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.attention_norm = nn.LayerNorm(config.width)
        self.feed = FeedForward(
            config.width, config.expansion * config.width, dropout=config.dropout
        )
        self.feed_norm = nn.LayerNorm(config.width)

    def forward(
        self, x: Float[Tensor, "batch time width"], read: Float[Tensor, "batch time width"]
    ) -> Float[Tensor, "batch time width"]:
        """Return the layer's result from its input and what attention read."""
        x = self.attention_norm(x + self.dropout(read))
        return self.feed_norm(x + self.feed(x))


class Layer(nn.Module):
    """Causal ProbSparse attention and feed-forward."""

    def __init__(self, config: InformerConfig) -> None:
        super().__init__()
        self.attention = ProbSparse(
            config.width, config.heads, factor=config.factor, samples=config.samples
        )
        self.added = Added(config)

    def forward(
        self, x: Float[Tensor, "batch time width"], state: Seen, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], Seen]:
        """Return the layer's result, and what its steps leave behind."""
        read, state = self.attention(x, state, span)
        return self.added(x, read), state


class Distilling(nn.Module):
    """Convolve, normalise, bend, and keep the highest of the latest steps at every stride."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.width, self.stride = width, stride
        self.reach = stride + 1 if stride > 1 else 1
        self.convolution = nn.Conv1d(width, width, KERNEL)
        self.norm = nn.LayerNorm(width)

    def init_state(self, batch: int) -> DistilState:
        """Return a state of zeros."""
        zeros = self.norm.weight.new_zeros
        return DistilState(
            zeros(batch, KERNEL - 1, self.width),
            zeros(batch, self.reach - 1, self.width),
            zeros(batch, self.width),
        )

    def forward(
        self, x: Float[Tensor, "batch time width"], state: DistilState, span: Span
    ) -> tuple[Float[Tensor, "batch token width"], DistilState]:
        """Return the tokens made in this segment, and what to keep."""
        joined = torch.cat([state.entered, x], 1)
        entered = trailing(joined, KERNEL - 1, span)
        convolved = self.convolution(joined.transpose(1, 2)).transpose(1, 2)
        convolved = F.elu(self.norm(convolved))
        made_of, there, kept = latest(convolved, state.convolved, span, self.stride)
        tokens = made_of.masked_fill(~there[..., None], float("-inf")).amax(2)
        return tokens, DistilState(entered, kept, state.token)


class PublishedDistilling(nn.Module):
    """The same as published: circular, with statistics of the batch, centred on each token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        pad = KERNEL // 2
        self.convolution = nn.Conv1d(width, width, KERNEL, padding=pad, padding_mode="circular")
        self.norm = nn.BatchNorm1d(width)
        self.pool = nn.MaxPool1d(KERNEL, stride=2, padding=pad)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch token width"]:
        """Return half as many steps."""
        return self.pool(F.elu(self.norm(self.convolution(x.transpose(1, 2))))).transpose(1, 2)


class Informer(nn.Module):
    """The causal redesign; see `kt_forecast.nn.system.Mixer`."""

    def __init__(self, config: InformerConfig) -> None:
        super().__init__()
        self.stride, self.leak = config.stride, config.leak
        between = config.layers - 1
        self.layers: Sequence[Layer] = nn.ModuleList(  # type: ignore[assignment]
            Layer(config) for _ in range(config.layers)
        )
        self.distilling = nn.ModuleList(
            PublishedDistilling(config.width)
            if config.pooling == "published"
            else Distilling(config.width, config.stride)
            for _ in range(between)
        )
        self.back = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(between))
        self.norm = nn.LayerNorm(config.width)

    def init_state(self, batch: int) -> InformerState:
        """Return the state before the first step.

        Raises:
            InputError: the settings read later steps, so that nothing can be streamed.
        """
        if self.leak:
            raise InputError(f"{self.leak}; accepted for a stream is the default, pooling='causal'")
        return self._nothing(batch)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: InformerState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], InformerState | None]:
        """Let each step read the steps up to it, near ones singly and far ones pooled too.

        Args:
            x: embedded steps, oldest first.
            state: what earlier segments left behind; None at the start.
            valid: False at padding.
            reset: True at the first step of a new sequence.

        Returns:
            One vector a step, and the state afterwards (None for a pass without ``state``).
        """
        nothing = self._nothing(len(x)) if state is None else state
        if state is None and valid is None and reset is None:
            return self._run(x, nothing, Span.beginning(x))[0], None
        y, after = in_turn(self._run, x, nothing, valid, reset)
        return y, None if state is None else after

    def _nothing(self, batch: int) -> InformerState:
        weight = self.norm.weight
        none = weight.new_zeros(batch, 0, len(weight))
        return InformerState(
            position=torch.zeros(batch, dtype=torch.int64, device=weight.device),
            layers=tuple(layer.attention.init_state(batch) for layer in self.layers),
            distilling=tuple(
                one.init_state(batch)
                if isinstance(one, Distilling)
                else DistilState(none, none, weight.new_zeros(batch, len(weight)))
                for one in self.distilling
            ),
        )

    def _run(
        self, x: Tensor, state: InformerState, span: Span
    ) -> tuple[Tensor, InformerState]:
        """Go down the levels, each at a lower rate, and read them back on the way up."""
        layers, distilling = list(state.layers), list(state.distilling)
        levels = []
        for i, layer in enumerate(self.layers):
            x, layers[i] = layer(x, state.layers[i], span)
            levels.append((x, span))
            if i == len(self.distilling):
                break
            x, distilling[i] = self._distilled(i, x, state.distilling[i], span)
            span = span.shortened(self.stride)
            if span.length == 0:
                levels.append((x, span))
                break
        y, _ = levels.pop()
        while levels:
            x, span = levels.pop()
            kept = distilling[len(levels)]
            read, token = held(y, kept.token, span, self.stride)
            distilling[len(levels)] = DistilState(kept.entered, kept.convolved, token)
            y = x + self.back[len(levels)](read)
        position = state.position + span.count
        return self.norm(y), InformerState(position, tuple(layers), tuple(distilling))

    def _distilled(
        self, i: int, x: Tensor, state: DistilState, span: Span
    ) -> tuple[Tensor, DistilState]:
        one = self.distilling[i]
        if isinstance(one, PublishedDistilling):
            return one(x), state
        tokens, state = one(x, state, span)
        return tokens, state


SYSTEM = System(
    family="sparse attention",
    config=InformerConfig,
    build=Informer,
    paper=Paper(
        title="Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting",
        authors="Zhou, Zhang, Peng, Zhang, Li, Xiong, Zhang",
        year=2021,
        url="https://arxiv.org/abs/2012.07436",
    ),
    promises=Promises(
        causality="step by change",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=1, training_bytes=1, step_flops=1, state_bytes=1),
    ),
    tracing={"scheme": "shifted"},
)
