"""All-attention: learned keys and values beside those of the steps take the feed-forward's place.

A softmax over learned vectors is what a feed-forward network does with another activation: here
each head reads a window of steps and vectors that belong to no step in one softmax, and a layer is
attention alone.

Departures from the paper:
    - a window of a fixed size, where the paper's heads learn theirs (see ``adaptive_span``);
    - rotary positions between steps instead of learned vectors of distances; learned keys have no
      position, as in the paper;
    - two layers by default, normalised copies are read (pre-norm).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attend import attend, attend_beside
from kt_forecast.nn.heads import Heads, Kept, OfHeads, begins
from kt_forecast.nn.rates import trailing
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, System


class AllAttentionConfig(HeadsConfig):
    """Settings of `all_attention`.

    Attributes:
        window: steps that a step reads, itself included.
        persistent: learned keys and values of each head.
        layers: of attention.
        dropout: probability of dropping a number of what a layer adds.
    """

    window: int = tunable(64, (32, 64, 128, 256), gt=0)
    persistent: int = tunable(64, (16, 64, 256), ge=0)
    layers: int = tunable(2, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


class PersistentAttention(Heads):
    """Attention to a window of steps and to learned vectors; see `kt_forecast.nn.stack.Mixing`.

    Attributes:
        keys: the learned ones, by a factor smaller than they are used.
        values: likewise.
    """

    def __init__(self, config: AllAttentionConfig) -> None:
        super().__init__(config.width, config.heads)
        self.window = config.window
        shape = (config.heads, config.persistent, self.size)
        self.keys = nn.Parameter(torch.randn(shape) * self.size**-0.5)
        self.values = nn.Parameter(torch.randn(shape) * max(1, config.persistent) ** -0.5)
        if not config.persistent:
            del self.keys, self.values

    def init_state(self, batch: int) -> Kept:
        """Return a window without steps."""
        return self.kept(batch, self.window - 1)

    def forward(
        self, x: Float[Tensor, "batch time width"], state: Kept, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], Kept]:
        """Return what each step read, and the window after the last step."""
        asked, key, value = self.mapped(x, span)
        kept, before = state, None
        if not span.ends:
            both = torch.cat([state, self.beside(key, value)], 1)
            kept = trailing(both, self.window - 1, span)
            if not begins(span):
                (key, value), before = self.halves(both), span.before
        if not hasattr(self, "keys"):
            y = attend(asked, key, value, self.window, before=before)
            return self.merged(y), kept
        # In the first half of the numbers steps meet, in the second half learned keys: so that
        # these have no position and one softmax serves both.
        query = torch.cat([asked, self.split(self.query(x))], -1) * 2**0.5
        key, value = _first(key), _first(value)
        y = attend_beside(query, key, value, self.window, self.learned(), before=before)
        return self.merged(y[..., : self.size]), kept

    def learned(self) -> tuple[OfHeads, OfHeads]:
        """Return the learned keys, in the second half of the numbers, and values in the first."""
        key, value = self.keys * self.size**0.5, self.values * self.values.shape[1] ** 0.5
        return F.pad(key, (self.size, 0))[None], _first(value)[None]


def _first(x: Tensor) -> Tensor:
    """Return vectors with as many zeros after their numbers."""
    return F.pad(x, (0, x.shape[-1]))


def build(config: AllAttentionConfig) -> Stack:
    """Return the mixer."""
    layers = [
        MixingLayer(PersistentAttention(config), config.width, dropout=config.dropout)
        for _ in range(config.layers)
    ]
    return Stack(layers, nn.LayerNorm(config.width))


SYSTEM = System(
    family="sparse attention",
    config=AllAttentionConfig,
    build=build,
    paper=Paper(
        title="Augmenting Self-attention with Persistent Memory",
        authors="Sukhbaatar, Grave, Lample, Jegou, Joulin",
        year=2019,
        url="https://arxiv.org/abs/1907.01470",
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
