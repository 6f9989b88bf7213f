"""Informer: attention for few queries, and fewer steps from layer to layer.

Between two layers of attention a convolution and a pooling shorten the sequence (distilling). As
published the network maps a window to its horizon and reads the window in both directions. The
default here is a redesign as a mixer of steps whose output depends on the steps so far alone, so
that it serves knowledge tracing and forecasts from every origin; ``published`` asks for the network
as it was, a direct forecaster.

``pooling="published"`` gives the mixer the published convolution, normalisation and pooling between
its layers and leaves all else causal: it shows what the published distilling reveals, and may not
be used to predict.

Departures from the paper:
    - sampled keys stand in a table made once, so that a prediction is a function of its input;
      the paper draws them anew in every call, when predicting too;
    - attention weights are never dropped, and the feed-forward network drops its result only;
    - past covariates and facts of a series are embedded as well, beside values and calendar;
    - in the mixer keys are sampled from the past, by a table of hashed positions, and a query's
      rank is taken among earlier queries, in blocks that double in length;
    - in the mixer queries that do not attend take the mean of the values so far; the paper's mask
      takes their sum;
    - in the mixer convolutions look back only, layer normalisation replaces that of the batch, and
      a pooled token ends at the step that makes it and is read from that step on;
    - in the mixer heads are not mixed with time, as the paper's decoder does; there is no decoder,
      every level is read back at the full rate and added; positions are rotary, so that length is
      unbounded.
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
from kt_forecast.nn.streams import Span, streamed
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System
from kt_forecast.sequences.series import Window, WindowShape

KERNEL = 3
"""Steps that a convolution reads."""
SEEDS = 100
"""Between the seeds of one encoder's tables and those of the next."""


class InformerConfig(HeadsConfig):
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
    layers: int = tunable(2, (1, 2, 3), gt=0)
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
        return streamed(self._run, self._nothing, x, state, valid, reset)

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

    def _run(self, x: Tensor, state: InformerState, span: Span) -> tuple[Tensor, InformerState]:
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
            return one(x)[:, : span.shortened(self.stride).length], state
        tokens, state = one(x, state, span)
        return tokens, state


class PublishedAttention(nn.Module):
    """Attention as published: sparse among the steps of one sequence, or full to those of another.

    Args:
        config: the system's settings.
        length: steps of the sequence; None reads all steps of another one.
        masked: let queries that attend read no later step, and give the others the sum of the
            values so far (else the mean of all).
        mix: let heads and steps change places in what is read.
        seed: of the table of sampled keys.
    """

    sample: Tensor

    def __init__(
        self,
        config: InformerConfig,
        length: int | None = None,
        *,
        masked: bool = False,
        mix: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.heads, self.masked, self.mix = config.heads, masked, mix
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.attending = length
        if length is not None:
            self.attending = min(config.factor * math.ceil(math.log(length)), length)
            draw = torch.Generator().manual_seed(seed)
            sample = torch.randint(length, (length, self.attending), generator=draw)
            self.register_buffer("sample", sample, persistent=False)

    def forward(
        self, x: Float[Tensor, "batch time width"], source: Float[Tensor, "batch steps width"]
    ) -> Float[Tensor, "batch time width"]:
        """Return what ``x`` reads of ``source``."""
        q, k = self._split(self.query(x)), self._split(self.key(source))
        v = self._split(self.value(source))
        if self.attending is None:
            read = F.scaled_dot_product_attention(q, k, v)
        else:
            read = self._sparse(q, k, v, self.attending)
        if self.mix:
            return self.out(read.reshape(x.shape))
        return self.out(read.transpose(1, 2).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _sparse(self, q: Tensor, k: Tensor, v: Tensor, attending: int) -> Tensor:
        length = k.shape[2]
        lazy = v.cumsum(2).to(v.dtype) if self.masked else v.mean(2, keepdim=True).expand(v.shape)
        if attending == 0:
            return lazy
        with torch.no_grad():
            # Up to thousands of steps it is faster to pick from all logits than to pick the keys.
            logits = (q @ k.transpose(2, 3)).float()
            logits = logits.gather(3, self.sample.expand(*q.shape[:2], -1, -1))
            measure = logits.amax(3) - logits.sum(3) / length
            column = measure.topk(attending, sorted=False).indices
        index = column[..., None].expand(-1, -1, -1, q.shape[3])
        place = torch.arange(length, device=q.device)
        visible = place <= column[..., None] if self.masked else None
        found = F.scaled_dot_product_attention(q.gather(2, index), k, v, attn_mask=visible)
        return lazy.scatter(2, index, found.to(lazy.dtype))


class PublishedEncoder(nn.Module):
    """Layers of sparse attention with distilling between them."""

    def __init__(self, config: InformerConfig, layers: int, length: int, seed: int) -> None:
        super().__init__()
        attention, added, distilling = [], [], []
        for i in range(layers):
            attention.append(PublishedAttention(config, length, seed=seed + i))
            added.append(Added(config))
            if i + 1 < layers:
                distilling.append(PublishedDistilling(config.width))
                length = -(-length // 2)
        self.attention, self.added = nn.ModuleList(attention), nn.ModuleList(added)
        self.distilling = nn.ModuleList(distilling)
        self.norm = nn.LayerNorm(config.width)
        self.length = length

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch token width"]:
        """Return ``length`` tokens."""
        for i, (attention, added) in enumerate(zip(self.attention, self.added, strict=True)):
            x = added(x, attention(x, x))
            if i < len(self.distilling):
                x = self.distilling[i](x)
        return self.norm(x)


class PublishedDecoderLayer(nn.Module):
    """Masked sparse attention among the decoder's steps, and full attention to the encoder's."""

    def __init__(self, config: InformerConfig, length: int, seed: int) -> None:
        super().__init__()
        self.own = PublishedAttention(config, length, masked=True, mix=config.mix, seed=seed)
        self.own_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.across = PublishedAttention(config)
        self.added = Added(config)

    def forward(
        self, x: Float[Tensor, "batch time width"], encoded: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch time width"]:
        """Return the layer's result."""
        x = self.own_norm(x + self.dropout(self.own(x, x)))
        return self.added(x, self.across(x, encoded))


class Embedding(nn.Module):
    """Values by a circular convolution, position by sinusoids, and what is known in advance.

    A calendar is the same for all series; what tells a series' known covariates from their mean
    over the series has a map of its own.
    """

    def __init__(self, config: InformerConfig, values: int, shape: WindowShape) -> None:
        super().__init__()
        pad, width = KERNEL // 2, config.width
        self.values = nn.Conv1d(values, width, KERNEL, padding=pad, padding_mode="circular")
        nn.init.kaiming_normal_(self.values.weight, mode="fan_in", nonlinearity="leaky_relu")
        channels, known = shape.channels, shape.known
        self.known = nn.Linear(known, width) if known else None
        self.apart = nn.Linear(channels * known, width) if known and channels > 1 else None
        self.static = nn.Linear(channels * shape.static, width) if shape.static else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        values: Float[Tensor, "batch time values"],
        known: Float[Tensor, "batch channels time known"],
        static: Float[Tensor, "batch channels static"],
    ) -> Float[Tensor, "batch time width"]:
        """Return one vector a step."""
        x = self.values(values.transpose(1, 2)).transpose(1, 2)
        x = x + sinusoids(x.shape[1], x.shape[2]).to(x)
        if self.known is not None:
            mean = known.mean(1)
            x = x + self.known(mean)
            if self.apart is not None:
                x = x + self.apart((known - mean[:, None]).transpose(1, 2).flatten(2))
        if self.static is not None:
            x = x + self.static(static.flatten(1))[:, None]
        return self.dropout(x)


class PublishedInformer(nn.Module):
    """Informer as published: the context in, all steps of the horizon out, in one pass.

    Args:
        config: the system's settings.
        shape: the windows; all series are channels of one window.
    """

    def __init__(self, config: InformerConfig, shape: WindowShape) -> None:
        super().__init__()
        self.shape = shape
        self.start = min(config.start or max(shape.context // 2, 1), shape.context)
        length = self.start + shape.horizon
        self.encoder_embedding = Embedding(config, shape.channels * (1 + shape.past), shape)
        self.decoder_embedding = Embedding(config, shape.channels, shape)
        stacks = config.stacks or (config.layers,)
        self.encoders = nn.ModuleList(
            PublishedEncoder(config, layers, max(shape.context >> i, 1), SEEDS * i)
            for i, layers in enumerate(stacks)
        )
        self.decoder = nn.ModuleList(
            PublishedDecoderLayer(config, length, SEEDS * len(stacks) + i)
            for i in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, shape.channels * shape.outputs)

    def forward(self, window: Window) -> Float[Tensor, "batch channels horizon outputs"]:
        """Return numbers for each series, step ahead and output."""
        shape = self.shape
        encoded = self._encoded(window)
        values = window.context[..., -self.start :].transpose(1, 2)
        x = F.pad(values, (0, 0, 0, shape.horizon))
        known = window.known[:, :, shape.context - self.start :]
        x = self.decoder_embedding(x, known, window.static)
        for layer in self.decoder:
            x = layer(x, encoded)
        ahead = self.head(self.norm(x[:, self.start :]))
        return ahead.unflatten(2, (shape.channels, shape.outputs)).transpose(1, 2)

    def _encoded(self, window: Window) -> Tensor:
        """Return the tokens of all encoders, one encoder's after another's."""
        past = window.past.transpose(1, 2).flatten(2)
        values = torch.cat([window.context.transpose(1, 2), past], -1)
        known = window.known[:, :, : self.shape.context]
        x = self.encoder_embedding(values, known, window.static)
        steps = x.shape[1]
        parts = [one(x[:, -max(steps >> i, 1) :]) for i, one in enumerate(self.encoders)]
        return torch.cat(parts, 1)


def sinusoids(steps: int, width: int) -> Float[Tensor, "steps width"]:
    """Return the positions of Vaswani et al. (2017)."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = torch.arange(steps)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


SYSTEM = System(
    family="sparse attention",
    config=InformerConfig,
    build=Informer,
    network=PublishedInformer,
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
