"""Adaptive attention span: each head learns how far back it looks, and keeps no more than that.

Beyond its span a head's weights fall to nothing along a ramp of a few steps. Spans cost something,
which training adds to the loss, so that a head looks as far back as it is worth; what lies beyond
the ramp is neither computed nor kept.

Departures from the paper:
    - a step reads itself too; the paper's code reads strictly earlier steps and lets memory that
      was never written take part;
    - rotary positions instead of learned vectors of distances;
    - every head has its own cache, where the paper keeps the longest for all;
    - spans beyond their ends are drawn back by the loss, not cut after each step of the optimiser;
    - two layers by default, normalised copies are read (pre-norm), any optimiser.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attend import attend_weighed
from kt_forecast.nn.heads import Heads, begins
from kt_forecast.nn.rates import trailing
from kt_forecast.nn.stack import MixingLayer, Stack, StackState
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, System


class AdaptiveSpanConfig(HeadsConfig):
    """Settings of `AdaptiveSpan`.

    Attributes:
        longest: steps back beyond which no span reaches.
        ramp: steps along which a head's weights fall to nothing beyond its span.
        penalty: what a step of the mean span of a layer's heads adds to the loss.
        layers: attention and feed-forward pairs.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    longest: int = tunable(256, (64, 256, 1024), gt=0)
    ramp: int = tunable(32, (8, 16, 32), gt=0)
    penalty: float = tunable(1e-5, Range(low=1e-7, high=1e-3, log=True), ge=0.0)
    layers: int = tunable(2, (1, 2, 4), gt=0)
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


Kept = tuple[Float[Tensor, "batch _ both"], ...]
"""Rotated keys and values of the latest steps, side by side, as many as each head looks back."""


class Spanned(Heads):
    """Attention of heads that look back as far as they learn to; see `Mixing`.

    Attributes:
        share: the span of each head, as a share of the longest.
    """

    def __init__(self, config: AdaptiveSpanConfig) -> None:
        super().__init__(config.width, config.heads)
        self.longest, self.ramp = config.longest, config.ramp
        self.share = nn.Parameter(torch.zeros(config.heads))

    @property
    def span(self) -> Float[Tensor, " head"]:
        """How many steps back each head reads in full."""
        held: Tensor = _Held.apply(self.share)  # type: ignore[no-untyped-call]
        return held * self.longest

    def cost(self, penalty: float) -> Float[Tensor, ""]:
        """Return what the spans add to the loss; shares beyond their ends are drawn back."""
        held = self.share.clamp(0.0, 1.0)
        return penalty * self.longest * held.mean() + (self.share - held.detach()).square().sum()

    def windows(self) -> list[int]:
        """Return how many steps each head reads at all, the own one included."""
        if torch.compiler.is_exporting():
            return [self.longest + self.ramp] * self.heads
        ceilings: list[float] = self.span.detach().ceil().tolist()
        return [int(ceiling) + self.ramp for ceiling in ceilings]

    def bias(self, window: int) -> Float[Tensor, "head {window}"]:
        """Return the logarithm of how much a step so many steps ago counts for each head."""
        ago = torch.arange(window, device=self.share.device)
        counts = (self.ramp + self.span[:, None] - ago) / self.ramp
        # Where a step counts in full, and be it just so, a longer span changes nothing.
        counts = counts.where(counts < 1.0, 1.0)
        least = torch.finfo(counts.dtype).tiny
        return counts.clamp_min(least).log().where(counts > 0, float("-inf"))

    def init_state(self, batch: int) -> Kept:
        """Return a cache for each head, without steps."""
        weight = self.out.weight
        return tuple(weight.new_zeros(batch, n - 1, 2 * self.size) for n in self.windows())

    def forward(
        self, x: Float[Tensor, "batch time width"], state: Kept, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], Kept]:
        """Return what each step read, and the caches after the last step."""
        windows = self.windows()
        bias = self.bias(max(windows))
        query, key, value = self.mapped(x, span)
        if span.ends and query.is_cuda:
            return self.merged(attend_weighed(query, key, value, bias)), state
        new = torch.cat([key, value], -1).unbind(1)
        # A span that has become shorter since the state was made needs less of it.
        kept = [
            past[:, max(0, past.shape[1] - window + 1) :]
            for past, window in zip(state, windows, strict=True)
        ]
        both = [torch.cat(pair, 1) for pair in zip(kept, new, strict=True)]
        after = tuple(
            trailing(slots, past.shape[1], span) for slots, past in zip(both, kept, strict=True)
        )
        if begins(span) and query.is_cuda:
            return self.merged(attend_weighed(query, key, value, bias)), after
        read, before = (new, None) if begins(span) else (both, span.before)
        parts = []
        for head, (slots, window) in enumerate(zip(read, windows, strict=True)):
            own = slice(head, head + 1)
            k, v = slots[:, None].chunk(2, -1)
            parts.append(attend_weighed(query[:, own], k, v, bias[own, :window], before=before))
        return self.merged(torch.cat(parts, 1)), after


class _Held(torch.autograd.Function):
    """Holds a number between zero and one, and passes its slope on as if it did not."""

    @staticmethod
    def forward(_: FunctionCtx, x: Tensor) -> Tensor:
        return x.clamp(0.0, 1.0)

    @staticmethod
    def backward(_: Any, slope: Tensor) -> Tensor:  # noqa: ANN401
        return slope


class AdaptiveSpan(Stack):
    """Layers of `Spanned`; see `kt_forecast.nn.system.Mixer`.

    Attributes:
        auxiliary: what the spans cost; see `kt_forecast.nn.system.Auxiliary`.
    """

    auxiliary: Tensor | None = None

    def __init__(self, config: AdaptiveSpanConfig) -> None:
        inner = config.expansion * config.width
        layers = [
            MixingLayer(Spanned(config), config.width, inner=inner, dropout=config.dropout)
            for _ in range(config.layers)
        ]
        super().__init__(layers, nn.LayerNorm(config.width))
        self.penalty = config.penalty

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: StackState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], StackState | None]:
        """Mix the steps of ``x``; see `Stack.forward`."""
        y, after = super().forward(x, state, valid=valid, reset=reset)
        if self.training:
            cost = torch.stack([layer.cost(self.penalty) for layer in self.spanned()]).sum()
            self.auxiliary = cost.expand(x.shape[:2])
        return y, after

    def spanned(self) -> list[Spanned]:
        """Return the attention of each layer."""
        return [module for module in self.modules() if isinstance(module, Spanned)]


SYSTEM = System(
    family="sparse attention",
    config=AdaptiveSpanConfig,
    build=AdaptiveSpan,
    paper=Paper(
        title="Adaptive Attention Span in Transformers",
        authors="Sukhbaatar, Grave, Bojanowski, Joulin",
        year=2019,
        url="https://arxiv.org/abs/1905.07799",
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
