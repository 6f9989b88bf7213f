"""GTrXL: Transformer-XL whose layers enter the stream through gates that are nearly shut at first.

Attention and feed-forward read a normalised copy of the stream, so that an identity map runs from
the embedded step to the last layer; what they made passes a rectifier and then a gate, a recurrent
unit whose state is the stream. At first the network is nearly "what is asked alone", and memory
enters as far as it helps.

Departures from the paper:
    - every step reads the same number of steps back, on a grid of each sequence's own steps, as in
      our Transformer-XL; memory that there is not yet is masked, where a public version reads
      zeros;
    - two layers by default, where the paper stacks more;
    - a GELU between the feed-forward maps; attention weights are never dropped;
    - the stream is normalised after the last layer.
"""

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.feedforward import FeedForward
from kt_forecast.nn.gating import Gate, Kind
from kt_forecast.nn.relative import Grid, RelativeAttention, SegmentStack
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, System


class GTrXLConfig(HeadsConfig):
    """Settings of `GTrXL`.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width``.
        window: how many steps back a step reads in a layer, itself included.
        segment: steps within which gradients flow.
        gate: what joins a layer's result with the stream; ``sum`` for a plain residual.
        shut: how far the gates are shut at first.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what enters a gate.
    """

    even_heads: ClassVar[bool] = False

    layers: int = tunable(2, (1, 2, 4), gt=0)
    window: int = tunable(128, (32, 64, 128, 256, 512), gt=0)
    segment: int = tunable(64, (32, 64, 128, 256), gt=0)
    gate: Kind = tunable("gru", ("gru", "output", "highway", "input", "sigmoid_tanh", "sum"))
    shut: float = tunable(2.0, (0.0, 1.0, 2.0))
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


class Layer(nn.Module):
    """Attention and feed-forward, each behind a rectifier and a gate."""

    def __init__(self, config: GTrXLConfig) -> None:
        super().__init__()
        width = config.width
        self.attention = RelativeAttention(width, config.heads, norm=nn.LayerNorm(width))
        self.attention_gate = Gate(width, config.gate, shut=config.shut)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width, config.expansion * width, dropout=config.dropout)
        self.feed_gate = Gate(width, config.gate, shut=config.shut)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        columns: Float[Tensor, "batch column width"],
        visible: Bool[Tensor, "#batch segment length key"],
        grid: Grid,
    ) -> Float[Tensor, "batch time width"]:
        """Return the layer's result from its input and what that may read."""
        read = self.dropout(F.relu(self.attention(columns, visible, grid)))
        x = self.attention_gate(x, read)
        return self.feed_gate(x, F.relu(self.feed(self.feed_norm(x))))


class GTrXL(SegmentStack):
    """Gated Transformer with a memory of earlier steps; see `kt_forecast.nn.system.Mixer`."""

    def __init__(self, config: GTrXLConfig) -> None:
        super().__init__(
            [Layer(config) for _ in range(config.layers)],
            nn.LayerNorm(config.width),
            width=config.width,
            segment=config.segment,
            window=config.window,
        )


SYSTEM = System(
    family="memory",
    config=GTrXLConfig,
    build=GTrXL,
    paper=Paper(
        title="Stabilizing Transformers for Reinforcement Learning",
        authors="Parisotto, Song, Rae, Pascanu, Gulcehre, Jayakumar, Jaderberg, Kaufman, Clark,"
        " Noury, Botvinick, Heess, Hadsell",
        year=2020,
        url="https://arxiv.org/abs/1910.06764",
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
