"""Transformer-XL: attention by distance to the segment before, whose states are kept as memory.

Steps are read in segments. A step reads its own segment and, as constants, what each layer was
given for the steps before it; so histories reach as many windows back as there are layers, and a
long stream costs no more a step than a short one.

Departures from the paper:
    - every step reads the same number of steps back, in training as in evaluation (the reference
      evaluates so); otherwise what a step reads would depend on where segments begin;
    - segments lie on a grid of each sequence's own steps, so that any cut of a stream gives the
      same values and the same gradients;
    - layers normalise what they read (the reference's option), not what they return, by default;
    - each layer has offsets of its own, where the reference shares two among all;
    - two layers by default, where the paper stacks more, and a GELU between the feed-forward maps;
    - attention weights are never dropped.
"""

from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.feedforward import FeedForward
from kt_forecast.nn.relative import Grid, RelativeAttention, SegmentStack
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, System


class TransformerXLConfig(HeadsConfig):
    """Settings of `TransformerXL`.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width``.
        window: how many steps back a step reads in a layer, itself included.
        segment: steps within which gradients flow.
        clamp: distance beyond which all distances are alike; None for none.
        norm: normalise what a layer reads, or what it returns.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    even_heads: ClassVar[bool] = False

    layers: int = tunable(2, (1, 2, 4), gt=0)
    window: int = tunable(128, (32, 64, 128, 256, 512), gt=0)
    segment: int = tunable(64, (32, 64, 128, 256), gt=0)
    clamp: int | None = None
    norm: Literal["before", "after"] = tunable("before", ("before", "after"))
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


class Layer(nn.Module):
    """Attention and feed-forward, each added to the stream."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        first, norm = config.norm == "before", nn.LayerNorm(config.width)
        self.attention = RelativeAttention(
            config.width, config.heads, norm=norm if first else nn.Identity(), clamp=config.clamp
        )
        self.attention_norm = None if first else norm
        self.dropout = nn.Dropout(config.dropout)
        self.feed_norm = nn.LayerNorm(config.width)
        self.feed = FeedForward(
            config.width, config.expansion * config.width, dropout=config.dropout
        )

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        columns: Float[Tensor, "batch column width"],
        visible: Bool[Tensor, "#batch segment length key"],
        grid: Grid,
    ) -> Float[Tensor, "batch time width"]:
        """Return the layer's result from its input and what that may read."""
        x = x + self.dropout(self.attention(columns, visible, grid))
        if self.attention_norm is None:
            return x + self.feed(self.feed_norm(x))
        x = self.attention_norm(x)
        return self.feed_norm(x + self.feed(x))


class TransformerXL(SegmentStack):
    """Transformer with a memory of earlier steps; see `kt_forecast.nn.system.Mixer`."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__(
            [Layer(config) for _ in range(config.layers)],
            nn.LayerNorm(config.width) if config.norm == "before" else nn.Identity(),
            width=config.width,
            segment=config.segment,
            window=config.window,
        )


SYSTEM = System(
    family="memory",
    config=TransformerXLConfig,
    build=TransformerXL,
    paper=Paper(
        title="Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context",
        authors="Dai, Yang, Yang, Carbonell, Le, Salakhutdinov",
        year=2019,
        url="https://arxiv.org/abs/1901.02860",
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
