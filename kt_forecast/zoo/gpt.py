"""Causally masked Transformer decoder; one layer is the basic network of both tasks.

Each layer adds to every step what attention read from the steps up to it, and then what a
feed-forward network made of the sum; both read a layer-normalised copy (pre-norm, as GPT-2).

Departures from the paper:
    - one layer by default, where the papers stack twelve and more;
    - attention weights are never dropped (see `CausalAttention`);
    - first weights are spread by the width that is there, not by a constant for one width;
    - rotary positions instead of learned ones, so that length is unbounded; or, with
      ``positions="forgetting"``, logits lowered by a learned slope times the log of the distance;
    - with a ``query`` stream, queries read the steps without being read themselves: the two-stream
      form that knowledge tracing uses (SAKT, AKT; XLNet's second stream).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attention import Cache, CausalAttention
from kt_forecast.nn.layer import Layer
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System


class GPTConfig(HeadsConfig):
    """Settings of `GPT`.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width`` into even sizes.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
        positions: ``rotary``, or ``forgetting``: distance lowers a logit logarithmically.
        window: how many steps back a step reads, itself included; None for all.
    """

    layers: int = tunable(1, (1, 2, 4), gt=0)
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)
    positions: Literal["rotary", "forgetting"] = tunable("rotary", ("rotary", "forgetting"))
    window: int | None = None


@dataclass(frozen=True)
class GPTState(State):
    """The cache of every layer, by number."""

    layers: tuple[Cache, ...]


class GPT(nn.Module):
    """Decoder-only Transformer; see `kt_forecast.nn.system.Mixer`."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        layers = [_layer(config) for _ in range(config.layers)]
        self.layers: Sequence[Layer] = nn.ModuleList(layers)  # type: ignore[assignment]
        self.norm = nn.LayerNorm(config.width)
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                # What a layer adds starts smaller the more layers add to the stream.
                adds = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=_std(weight.shape[1], config.layers if adds else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def init_state(self, batch: int) -> GPTState:
        """Return empty caches."""
        return GPTState(tuple(layer.init_state(batch) for layer in self.layers))

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: GPTState | None = None,
        *,
        query: Float[Tensor, "batch time width"] | None = None,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], GPTState | None]:
        """Let each step read the steps up to it; with ``query``, queries read ``x`` instead.

        Args:
            x: embedded steps, oldest first.
            state: caches of the steps before; None at the start.
            query: a second stream whose step t reads ``x`` up to t and is read by nothing.
            valid: False at padding.
            reset: True at the first step of a new sequence.

        Returns:
            One vector a step, and the caches afterwards (None for a pass without ``state``).
        """
        caches = []
        for i, layer in enumerate(self.layers):
            cache = None if state is None else state.layers[i]
            read = x
            if query is None or i + 1 < len(self.layers):
                x, after = layer(x, x, cache, valid, reset)
            if query is not None:
                query, after = layer(query, read, cache, valid, reset)
            caches.append(after)
        y = self.norm(x if query is None else query)
        return y, None if state is None else GPTState(tuple(caches))


def _layer(config: GPTConfig) -> Layer:
    attention = CausalAttention(
        config.width,
        config.heads,
        forgetting=config.positions == "forgetting",
        window=config.window,
    )
    inner = config.expansion * config.width
    return Layer(attention, config.width, inner=inner, dropout=config.dropout)


def _std(inputs: int, layers: int) -> float:
    """Return the spread of first weights: GPT-2's at GPT-2's width, and in proportion elsewhere."""
    return 1.0 / math.sqrt(3 * inputs * layers)


SYSTEM = System(
    family="decoder",
    config=GPTConfig,
    build=GPT,
    paper=Paper(
        title="Language Models are Unsupervised Multitask Learners",
        authors="Radford, Wu, Child, Luan, Amodei, Sutskever",
        year=2019,
        url="https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf",
    ),
    promises=Promises(
        causality="step",
        streaming=True,
        two_streams=True,
        cost=Cost(training_flops=2, training_bytes=1, step_flops=1, state_bytes=1),
    ),
    tracing={"scheme": "two_stream"},
    forecasting={"dense": True},
)
