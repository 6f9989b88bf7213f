"""Layers with states, one upon another, as a mixer of steps."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from kt_forecast.errors import InputError
from kt_forecast.nn.feedforward import FeedForward
from kt_forecast.nn.streams import Span, by_masks, streamed
from kt_forecast.nn.system import State


@runtime_checkable
class Mixing(Protocol):
    """What mixes real steps that follow each other, one sequence a row."""

    def init_state(self, batch: int) -> Any:  # noqa: ANN401
        """Return the state before the first step: zeros, batch first."""
        ...

    def __call__(self, x: Tensor, state: Any, span: Span) -> tuple[Tensor, Any]:  # noqa: ANN401
        """Return one vector a step, and the state after the span's real steps."""
        ...


class MixingLayer(nn.Module):
    """What mixes steps, and a feed-forward network, each added to a normalised reading.

    Args:
        mixing: see `Mixing`.
        width: numbers in a step's vector.
        norm: makes a normalisation of vectors of a width.
        inner: numbers between the two maps of the feed-forward network; 0 for none.
        dropout: probability of dropping a number of what is added.
    """

    def __init__(
        self,
        mixing: Mixing,
        width: int,
        *,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        inner: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm = norm(width)
        self.mixing = mixing
        self.dropout = nn.Dropout(dropout)
        self.feed_norm = norm(width) if inner else None
        self.feed = FeedForward(width, inner, dropout=dropout) if inner else None

    def init_state(self, batch: int) -> Any:  # noqa: ANN401
        """Return the state before the first step."""
        return self.mixing.init_state(batch)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: Any,  # noqa: ANN401
        span: Span,
    ) -> tuple[Float[Tensor, "batch time width"], Any]:
        """Return the steps with what they read added, and the state afterwards."""
        mixed, state = self.mixing(self.norm(x), state, span)
        x = x + self.dropout(mixed)
        if self.feed is not None and self.feed_norm is not None:
            x = x + self.feed(self.feed_norm(x))
        return x, state


@dataclass(frozen=True)
class StackState(State):
    """How many steps each row has seen, and the state of every layer, by number."""

    position: Int[Tensor, " batch"]
    layers: tuple[Any, ...]


class Stack(nn.Module):
    """Layers one upon another; see `kt_forecast.nn.system.Mixer`.

    Args:
        layers: modules; each takes steps, its state and their `Span`.
        norm: applied to what the last layer gives.
        leak: how the layers read later steps, in a few words; empty where they do not.
    """

    def __init__(self, layers: Iterable[Mixing], norm: nn.Module, *, leak: str = "") -> None:
        super().__init__()
        self.layers: Sequence[Mixing] = nn.ModuleList(layers)  # type: ignore[assignment, arg-type]
        self.norm = norm
        self.leak = leak

    def init_state(self, batch: int) -> StackState:
        """Return the state of ``batch`` sequences before their first step.

        Raises:
            InputError: the layers read later steps, so that nothing can be streamed.
        """
        if self.leak:
            raise InputError(f"{self.leak}; accepted for a stream is published = false")
        return self._nothing(batch)

    def _nothing(self, batch: int) -> StackState:
        parameter = next(self.parameters())
        position = parameter.new_zeros(batch).long()
        return StackState(position, tuple(layer.init_state(batch) for layer in self.layers))

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: StackState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], StackState | None]:
        """Mix the steps of ``x``, which follow those that ``state`` has seen.

        Args:
            x: embedded steps, oldest first.
            state: what earlier segments left behind; None at the start.
            valid: False at padding.
            reset: True at the first step of a new sequence.

        Returns:
            One vector a step, and the state afterwards (None for a pass without ``state``).
        """
        plain = reset is not None or (state is None and valid is None)
        if plain or not torch.compiler.is_exporting():
            return streamed(self._run, self._nothing, x, state, valid, reset)
        carried = self._nothing(len(x)) if state is None else state
        valid = x.new_ones(x.shape[:2], dtype=torch.bool) if valid is None else valid
        y, after = by_masks(self._run, x, carried, valid)
        return y, None if state is None else after

    def _run(self, x: Tensor, state: StackState, span: Span) -> tuple[Tensor, StackState]:
        after = []
        for layer, before in zip(self.layers, state.layers, strict=True):
            x, left = layer(x, before, span)
            after.append(left)
        return self.norm(x), StackState(state.position + span.count, tuple(after))
