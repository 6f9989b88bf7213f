"""Memory-compressed attention: windows in turn with all of the past at a third of its length.

Every second layer reads the whole past, but its keys and values are first made fewer by a
convolution whose kernel is as long as its stride; queries stay as they are. A compressed key is
read once the last of its steps has passed, and the layers between read the latest steps as they
are, so that what is not compressed yet is not lost.

Departures from the paper:
    - three layers by default, where the paper has five; first and last are local as there;
    - local layers read a window of the latest steps, where the paper cuts time into blocks, of
      which a step at the beginning of one would read nothing before it;
    - the first step has a compressed key of its own, uncompressed, as in the published code, so
      that the first steps have something to read;
    - rotary positions; a compressed key has that of the first step that may read it;
    - normalised copies are read (pre-norm), and layers have no mixtures of experts.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attend import attend_cached
from kt_forecast.nn.heads import Heads, Kept, WindowAttention, begins, joined
from kt_forecast.nn.rates import latest
from kt_forecast.nn.stack import MixingLayer, Stack
from kt_forecast.nn.streams import Span, appended
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System
from kt_forecast.nn.windowed import in_phase, phases


class MemoryCompressedConfig(HeadsConfig):
    """Settings of memory-compressed attention.

    Attributes:
        width: numbers in a step's vector.
        heads: attention heads; must divide ``width`` into even sizes.
        layers: attention and feed-forward pairs, local and compressed in turn.
        factor: steps of which one key is made.
        window: steps that a local layer reads, the own one included.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    layers: int = tunable(3, (2, 3, 5), gt=1)
    factor: int = tunable(3, (2, 3, 4, 6), gt=0)
    window: int = tunable(64, (16, 32, 64, 128, 256), gt=0)
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


@dataclass(frozen=True)
class CompressedState(State):
    """What a compressed layer keeps; keys and values stand side by side.

    Attributes:
        kept: compressed; slot 0 is the first step's own.
        open: of the latest steps, as many as make one key, not compressed.
    """

    kept: Kept
    open: Kept


class CompressedAttention(Heads):
    """Attention to all of the past, compressed; see `kt_forecast.nn.stack.Mixing`."""

    def __init__(self, config: MemoryCompressedConfig) -> None:
        super().__init__(config.width, config.heads)
        self.factor = config.factor
        self.compress_key = nn.Linear(config.factor * config.width, config.width)
        self.compress_value = nn.Linear(config.factor * config.width, config.width)

    def init_state(self, batch: int) -> CompressedState:
        """Return a past without steps."""
        return CompressedState(self.kept(batch, 0), self.kept(batch, self.factor))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: CompressedState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], CompressedState]:
        """Return what each step read of the past, and the past after the last."""
        made_of, _, open_ = latest(self.key_value(x), state.open, span, self.factor)
        tokens = self._compressed(made_of, span.shortened(self.factor))
        query = self.asked(x, span)
        if begins(span):
            kept = tokens
            y = self._in_one_pass(query, kept)
        else:
            kept = appended(state.kept[:, None], tokens[:, None], span.shortened(self.factor))[:, 0]
            position = span.position[:1] if span.uniform else span.position
            y = attend_cached(query, *self.halves(kept), position // self.factor)
        return self.merged(y), CompressedState(kept, open_)

    def _compressed(
        self, made_of: Float[Tensor, "batch token reach both"], tokens: Span
    ) -> Float[Tensor, "batch token both"]:
        """Return one key and value for the steps before each token's own, and x_0's own first."""
        key, value = made_of.chunk(2, -1)
        first = (tokens.position == 0)[..., None]
        earlier = [part[:, :, :-1].flatten(2) for part in (key, value)]
        key = torch.where(first, key[:, :, -1], self.compress_key(earlier[0]))
        value = torch.where(first, value[:, :, -1], self.compress_value(earlier[1]))
        place = tokens.position * self.factor
        return torch.cat([joined(self.rotary(self.split(key), place)), value], -1)

    def _in_one_pass(
        self, query: Float[Tensor, "batch head time size"], kept: Kept
    ) -> Float[Tensor, "batch head time size"]:
        """Attend from the beginning without a mask.

        Of the steps at the same place between two compressed keys, each reads one more than the one
        before it: that is causal attention, for each such place.
        """
        key, value = (t.repeat_interleave(self.factor, 0) for t in self.halves(kept))
        each = phases(query, self.factor)
        y = F.scaled_dot_product_attention(each, key, value, is_causal=True)
        return in_phase(y, self.factor, query.shape[2])


def build(config: MemoryCompressedConfig) -> Stack:
    """Return the mixer."""
    width, inner = config.width, config.expansion * config.width
    layers = []
    for layer in range(config.layers):
        mixing: CompressedAttention | WindowAttention = CompressedAttention(config)
        if layer % 2 == 0:
            mixing = WindowAttention(width, config.heads, window=config.window)
        layers.append(MixingLayer(mixing, width, inner=inner, dropout=config.dropout))
    return Stack(layers, nn.LayerNorm(width))


SYSTEM = System(
    family="sparse attention",
    config=MemoryCompressedConfig,
    build=build,
    paper=Paper(
        title="Generating Wikipedia by Summarizing Long Sequences",
        authors="Liu, Saleh, Pot, Goodrich, Sepassi, Kaiser, Shazeer",
        year=2018,
        url="https://arxiv.org/abs/1801.10198",
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
