"""PS-GTr: gated Transformer of GTrXL whose attention is Informer's, sparse in its queries.

As in GTrXL the sub-layers read a normalised copy of the stream and enter it through a rectifier and
a gate. Few queries attend to all steps before them; the others take the mean of the values so far.

As published which queries attend is decided among all steps, later ones too; here a query competes
with earlier ones only. No setting gives the published choice.

Only the paper's abstract could be read, and there is no public code: sparse attention in GTrXL, its
order of normalisation and its gates kept. The rest is our construction.

Departures from the paper:
    - the published selection reads later steps, which goes unseen where only the last step's output
      is used; here nothing later decides which queries attend (see `kt_forecast.nn.probsparse`);
    - the memory is all steps so far, at a cost that still grows almost with their number, and no
      gradient is stopped;
    - rotary positions, where GTrXL counts distances in a term of its own;
    - two layers by default; attention weights are never dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.feedforward import FeedForward
from kt_forecast.nn.gating import Gate, Kind
from kt_forecast.nn.probsparse import ProbSparse, Seen
from kt_forecast.nn.streams import Span, streamed
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System


class PSGTrConfig(HeadsConfig):
    """Settings of `PSGTr`.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width`` into even sizes.
        factor: how many queries attend, in multiples of the logarithm of the length.
        samples: keys that a query is measured by.
        gate: what joins a layer's result with the stream; ``sum`` for a plain residual.
        shut: how far the gates are shut at first.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what enters a gate.
    """

    layers: int = tunable(2, (1, 2, 4), gt=0)
    factor: int = tunable(5, (1, 3, 5), ge=0)
    samples: int = tunable(32, (16, 32, 64), gt=0)
    gate: Kind = tunable("gru", ("gru", "output", "highway", "input", "sigmoid_tanh", "sum"))
    shut: float = tunable(2.0, (0.0, 1.0, 2.0))
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


@dataclass(frozen=True)
class PSGTrState(State):
    """What every layer keeps, and how many steps each row has seen."""

    position: Int[Tensor, " batch"]
    layers: tuple[Seen, ...]


class Layer(nn.Module):
    """Sparse attention and feed-forward, each behind a rectifier and a gate."""

    def __init__(self, config: PSGTrConfig) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = nn.LayerNorm(width)
        self.attention = ProbSparse(
            width, config.heads, factor=config.factor, samples=config.samples
        )
        self.attention_gate = Gate(width, config.gate, shut=config.shut)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width, config.expansion * width, dropout=config.dropout)
        self.feed_gate = Gate(width, config.gate, shut=config.shut)

    def forward(
        self, x: Float[Tensor, "batch time width"], state: Seen, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], Seen]:
        """Return the layer's result, and what its steps leave behind."""
        read, state = self.attention(self.attention_norm(x), state, span)
        x = self.attention_gate(x, self.dropout(F.relu(read)))
        return self.feed_gate(x, F.relu(self.feed(self.feed_norm(x)))), state


class PSGTr(nn.Module):
    """Gated Transformer with sparse attention; see `kt_forecast.nn.system.Mixer`."""

    def __init__(self, config: PSGTrConfig) -> None:
        super().__init__()
        self.layers: Sequence[Layer] = nn.ModuleList(  # type: ignore[assignment]
            Layer(config) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def init_state(self, batch: int) -> PSGTrState:
        """Return the state before the first step."""
        position = torch.zeros(batch, dtype=torch.int64, device=self.norm.weight.device)
        layers = tuple(layer.attention.init_state(batch) for layer in self.layers)
        return PSGTrState(position, layers)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: PSGTrState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], PSGTrState | None]:
        """Let each step read the steps up to it, singly or as their mean.

        Args:
            x: embedded steps, oldest first.
            state: what earlier segments left behind; None at the start.
            valid: False at padding.
            reset: True at the first step of a new sequence.

        Returns:
            One vector a step, and the state afterwards (None for a pass without ``state``).
        """
        return streamed(self._run, self.init_state, x, state, valid, reset)

    def _run(self, x: Tensor, state: PSGTrState, span: Span) -> tuple[Tensor, PSGTrState]:
        kept = []
        for layer, before in zip(self.layers, state.layers, strict=True):
            x, after = layer(x, before, span)
            kept.append(after)
        return self.norm(x), PSGTrState(state.position + span.count, tuple(kept))


SYSTEM = System(
    family="memory",
    config=PSGTrConfig,
    build=PSGTr,
    paper=Paper(
        title="Gated Transformer Based on Prob-Sparse Attention",
        authors="Zhao, Ding, Ma, Chen, Wang",
        year=2024,
        url="https://doi.org/10.13364/j.issn.1672-6510.20230145",
    ),
    promises=Promises(
        causality="step by change",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=1, training_bytes=1, step_flops=1, state_bytes=1),
    ),
    tracing={"scheme": "shifted"},
    forecasting={"dense": True},
)
