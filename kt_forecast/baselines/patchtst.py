"""PatchTST: a Transformer encoder over overlapping patches of one series at a time.

The end of the context is repeated by one stride, patches become tokens with learned positions,
and channels are rows that share all weights. Each layer adds the attention scores of the layer
before to its own (He et al. 2021, RealFormer) and normalises over the batch. All tokens together
give the horizon. The task measures each window from its mean and by its spread.

Departures from the paper:
    - the normalisation has no learned scale and shift, as in the published runs;
    - a context shorter than a patch is one patch.

While training, batch normalisation lets the rows of a batch read each other; a forecast does not.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, System
from kt_forecast.sequences.series import Window, WindowShape


class PatchTSTConfig(HeadsConfig):
    """Settings of `PatchTST`, those published for the larger sets; see `SMALL`.

    Attributes:
        width: numbers in a token.
        heads: attention heads; must divide ``width``.
        layers: encoder layers.
        inner: numbers between the two maps of a layer's step-wise network.
        patch: steps of a patch.
        stride: steps between the starts of two patches.
        dropout: probability of dropping a number of a token.
    """

    even_heads: ClassVar[bool] = False

    width: int = tunable(128, (16, 64, 128), gt=0)
    heads: int = tunable(16, (4, 8, 16), gt=0)
    layers: int = tunable(3, (2, 3, 4), gt=0)
    inner: int = tunable(256, (128, 256, 512), gt=0)
    patch: int = tunable(16, (8, 16, 24), gt=0)
    stride: int = tunable(8, (4, 8, 12), gt=0)
    dropout: float = tunable(0.2, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


SMALL = {"width": 16, "heads": 4, "inner": 128, "dropout": 0.3}
"""Settings published for sets of some ten thousand rows, such as ETTh1 and ETTh2."""


class PatchTST(nn.Module):
    """Encoder over patches, and a linear map of all its tokens."""

    def __init__(self, config: PatchTSTConfig, shape: WindowShape) -> None:
        super().__init__()
        self.patch, self.stride = min(config.patch, shape.context), config.stride
        self.ahead = (shape.horizon, shape.outputs)
        tokens = (shape.context - self.patch) // self.stride + 2
        self.embed = nn.Linear(self.patch, config.width)
        self.position = nn.Parameter(torch.empty(tokens, config.width).uniform_(-0.02, 0.02))
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(tokens * config.width, shape.horizon * shape.outputs)

    def tokens(
        self, context: Float[Tensor, "batch channels context"]
    ) -> Float[Tensor, "rows token width"]:
        """Return the embedded patches of each channel as a row."""
        padded = F.pad(context, (0, self.stride), mode="replicate")
        patches = padded.unfold(-1, self.patch, self.stride).flatten(0, 1)
        return self.dropout(self.embed(patches) + self.position)

    def forward(self, window: Window) -> Float[Tensor, "batch channels horizon outputs"]:
        """Return the steps ahead; covariates are not read."""
        x, scores = self.tokens(window.context), None
        for layer in self.layers:
            x, scores = layer(x, scores)
        y: Tensor = self.head(x.flatten(1)).unflatten(-1, self.ahead)
        return y.unflatten(0, window.context.shape[:2])


class EncoderLayer(nn.Module):
    """Attention with residual scores, and a step-wise network, each normalised over the batch."""

    def __init__(self, config: PatchTSTConfig) -> None:
        super().__init__()
        width = config.width
        self.split = (config.heads, width // config.heads)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.attended, self.fed = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.feed = nn.Sequential(
            nn.Linear(width, config.inner),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.inner, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "rows token width"],
        before: Float[Tensor, "rows head token token"] | None,
    ) -> tuple[Float[Tensor, "rows token width"], Float[Tensor, "rows head token token"]]:
        """Return the new tokens, and the scores for the next layer to add to."""
        mixed, scores = self.attend(x, before)
        x = self.attended((x + self.dropout(mixed)).mT).mT
        return self.fed((x + self.dropout(self.feed(x))).mT).mT, scores

    def attend(
        self,
        x: Float[Tensor, "rows token width"],
        before: Float[Tensor, "rows head token token"] | None,
    ) -> tuple[Float[Tensor, "rows token width"], Float[Tensor, "rows head token token"]]:
        """Return what each token reads of all tokens, and the scores that decided it."""
        q, k, v = (
            to(x).unflatten(-1, self.split).transpose(1, 2)
            for to in (self.query, self.key, self.value)
        )
        scores = q @ k.mT * self.split[1] ** -0.5
        if before is not None:
            scores = scores + before
        read = scores.softmax(-1) @ v
        return self.dropout(self.out(read.transpose(1, 2).flatten(-2))), scores


SYSTEM = System(
    family="attention",
    config=PatchTSTConfig,
    network=PatchTST,
    paper=Paper(
        title="A Time Series is Worth 64 Words: Long-term Forecasting with Transformers",
        authors="Nie, Nguyen, Sinthong, Kalagnanam",
        year=2023,
        url="https://arxiv.org/abs/2211.14730",
    ),
    promises=Promises(
        causality="window",
        streaming=False,
        two_streams=False,
        cost=Cost(training_flops=2, training_bytes=2, step_flops=0, state_bytes=0),
    ),
    forecasting={"context": 336, "normalisation": "window"},
)
