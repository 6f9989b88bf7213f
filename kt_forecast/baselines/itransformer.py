"""iTransformer: each series of the window is one token, and attention runs over the series.

A linear map of its whole context is a series' token; encoder layers with full attention and layer
normalisation mix the tokens; a linear map of each gives its horizon. Nothing in it numbers the
series: their order does not matter, and their number may change from window to window. The task
measures each series from its mean and by its spread within the window.

Departures from the paper:
    - covariates are tokens, as the published marks of time are, but have a map of their own, which
      for those known in advance reads the steps ahead too; where series differ in a covariate its
      mean over the series is read;
    - no attention weight is ever dropped.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, System
from kt_forecast.sequences.series import Window, WindowShape


class ITransformerConfig(HeadsConfig):
    """Settings of `ITransformer`, those published for the larger sets; see `SMALL`.

    Attributes:
        width: numbers in a token.
        heads: attention heads; must divide ``width``.
        layers: encoder layers.
        inner: numbers between the two maps of a layer's token-wise network.
        dropout: probability of dropping a number of a token.
    """

    even_heads: ClassVar[bool] = False

    width: int = tunable(512, (128, 256, 512), gt=0)
    heads: int = tunable(8, (4, 8), gt=0)
    layers: int = tunable(3, (2, 3, 4), gt=0)
    inner: int = tunable(512, (128, 256, 512, 2048), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


SMALL = {"width": 128, "layers": 2, "inner": 128}
"""Settings published for sets of few series, such as ETTm1 and Exchange."""


class ITransformer(nn.Module):
    """Encoder over series."""

    def __init__(self, config: ITransformerConfig, shape: WindowShape) -> None:
        super().__init__()
        self.ahead = (shape.horizon, shape.outputs)
        self.embed = nn.Linear(shape.context, config.width)
        self.embed_past = nn.Linear(shape.context, config.width) if shape.past else None
        both = shape.context + shape.horizon
        self.embed_known = nn.Linear(both, config.width) if shape.known else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, shape.horizon * shape.outputs)

    def tokens(self, window: Window) -> Float[Tensor, "batch token width"]:
        """Return the tokens of the series and then those of the covariates."""
        found = [self.embed(window.context)]
        if self.embed_past is not None:
            found.append(self.embed_past(window.past.mean(1).mT))
        if self.embed_known is not None:
            found.append(self.embed_known(window.known.mean(1).mT))
        return self.dropout(torch.cat(found, 1))

    def forward(self, window: Window) -> Float[Tensor, "batch channels horizon outputs"]:
        """Return the steps ahead of each series."""
        x = self.tokens(window)
        for layer in self.layers:
            x = layer(x)
        channels = window.context.shape[1]
        return self.out(self.norm(x[:, :channels])).unflatten(-1, self.ahead)


class EncoderLayer(nn.Module):
    """Full attention over tokens and a token-wise network, each normalised afterwards."""

    def __init__(self, config: ITransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.split = (config.heads, width // config.heads)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.attended, self.fed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, config.inner),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.inner, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        """Return the mixed tokens."""
        q, k, v = (
            to(x).unflatten(-1, self.split).transpose(1, 2)
            for to in (self.query, self.key, self.value)
        )
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        x = self.attended(x + self.dropout(self.out(read)))
        return self.fed(x + self.dropout(self.feed(x)))


SYSTEM = System(
    family="attention",
    config=ITransformerConfig,
    network=ITransformer,
    paper=Paper(
        title="iTransformer: Inverted Transformers Are Effective for Time Series Forecasting",
        authors="Liu, Hu, Zhang, Wu, Wang, Ma, Long",
        year=2024,
        url="https://arxiv.org/abs/2310.06625",
    ),
    promises=Promises(
        causality="window",
        streaming=False,
        two_streams=False,
        cost=Cost(training_flops=1, training_bytes=1, step_flops=0, state_bytes=0),
    ),
    forecasting={
        "context": 96,
        "normalisation": "window",
        "mixing": True,
        "calendar": True,
    },
)
