"""Residual layers that can be undone, so that training keeps the activations of the last only.

The stream is two halves: what mixes steps reads the second and is added to the first, what feeds
each step forward reads the first and is added to the second. Either half can be had back from the
result by subtraction, and so the backward pass computes the activations anew, layer by layer from
the last (Gomez et al. 2017, RevNet; Kitaev et al. 2020). What a layer decided by comparing numbers
(a bucket, say) is kept, since numbers that were had back differ by rounding, and another decision
would give the slopes of another function. Random draws are repeated by keeping their seeds.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kt_forecast.nn.feedforward import FeedForward
from kt_forecast.nn.stack import Stack, StackState
from kt_forecast.nn.streams import Span, streamed

Pair = tuple[Tensor, Tensor]


@runtime_checkable
class Deciding(Protocol):
    """What mixes real steps by decisions that can be told to it."""

    def init_state(self, batch: int) -> Any:  # noqa: ANN401
        """Return the state before the first step: zeros, batch first."""
        ...

    def __call__(
        self,
        x: Tensor,
        state: Any,  # noqa: ANN401
        span: Span,
        decided: Tensor | None = None,
    ) -> tuple[Tensor, Any, Tensor]:
        """Return one vector a step, the state afterwards, and what was decided."""
        ...


class ReversibleLayer(nn.Module):
    """Mixing added to the first half of the stream, feed-forward added to the second.

    Args:
        mixing: see `Deciding`.
        width: numbers in a step's vector, in each half.
        inner: numbers between the two maps of the feed-forward network.
        dropout: probability of dropping a number of what is added.
        at_once: steps of all rows that are fed forward at a time.
    """

    def __init__(
        self, mixing: Deciding, width: int, *, inner: int, dropout: float, at_once: int
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mixing = mixing
        self.dropout = nn.Dropout(dropout)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width, inner, dropout=dropout)
        self.at_once = at_once

    def init_state(self, batch: int) -> Any:  # noqa: ANN401
        """Return the state before the first step."""
        return self.mixing.init_state(batch)

    def mixed(
        self,
        x: Float[Tensor, "batch time width"],
        state: Any,  # noqa: ANN401
        span: Span,
        seed: int | None,
        decided: Tensor | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], Any, Tensor]:
        """Return what mixing adds, the state afterwards, and what was decided."""
        with _repeated(seed, x.device):
            y, state, decided = self.mixing(self.norm(x), state, span, decided)
            return self.dropout(y), state, decided

    def fed(self, x: Float[Tensor, "batch some width"]) -> Float[Tensor, "batch some width"]:
        """Return what feeding forward adds to a slice of steps."""
        return self.feed(self.feed_norm(x))

    def slices(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the slices of steps that are fed forward one after another."""
        some = max(self.at_once // max(len(x), 1), 1)
        return (x,) if torch.compiler.is_exporting() else x.split(some, 1)

    def forward(
        self,
        pair: Pair,
        state: Any,  # noqa: ANN401
        span: Span,
        seeds: tuple[int | None, int | None],
    ) -> tuple[Pair, Any, Tensor]:
        """Return both halves of the stream, the state afterwards, and what was decided."""
        first, second = pair
        change, state, decided = self.mixed(second, state, span, seeds[0])
        first = first + change
        with _repeated(seeds[1], first.device):
            second = second + _joined([self.fed(part) for part in self.slices(first)])
        return (first, second), state, decided

    def undone(
        self,
        pair: Pair,
        slopes: Pair,
        state: Any,  # noqa: ANN401
        span: Span,
        seeds: tuple[int | None, int | None],
        decided: Tensor,
    ) -> tuple[Pair, Pair, dict[nn.Parameter, Tensor]]:
        """Go back from what the layer gave to what it was given.

        Args:
            pair: what the layer gave.
            slopes: of the loss, in what the layer gave.
            state: before the layer's steps.
            span: where they stand.
            seeds: of its random draws.
            decided: what it decided.

        Returns:
            What the layer was given, the slopes in it, and those in the layer's parameters.
        """
        (first, second), (to_first, to_second) = pair, slopes
        found: dict[nn.Parameter, Tensor] = {}
        changes, through = [], []
        with _repeated(seeds[1], first.device):
            for part, slope in zip(self.slices(first), self.slices(to_second), strict=True):
                given = part.detach().requires_grad_()
                with torch.enable_grad():
                    # A view: modules that are counted take no leaf here.
                    change = self.fed(given.view_as(given))
                through.append(_slopes(change, slope, given, (self.feed_norm, self.feed), found))
                changes.append(change.detach())
        second = second - _joined(changes)
        to_first = to_first + _joined(through)
        given = second.detach().requires_grad_()
        with torch.enable_grad():
            change, _, _ = self.mixed(given.view_as(given), state, span, seeds[0], decided)
        slope = _slopes(change, to_first, given, (self.norm, self.mixing), found)
        return (first - change.detach(), second), (to_first, to_second + slope), found


class ReversibleStack(Stack):
    """Reversible layers one upon another; see `kt_forecast.nn.system.Mixer`.

    A training pass that is given no state and asks for none keeps nothing of its layers but what
    they decided; any other keeps what plain layers keep.

    Args:
        layers: reversible ones.
        width: numbers in a step's vector.
        leak: how the layers read later steps, in a few words; empty where they do not.
    """

    layers: Sequence[ReversibleLayer]

    def __init__(self, layers: Iterable[ReversibleLayer], width: int, *, leak: str = "") -> None:
        super().__init__(layers, nn.LayerNorm(2 * width), leak=leak)
        self.out = nn.Linear(2 * width, width)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: StackState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], StackState | None]:
        """Mix the steps of ``x``, which follow those that ``state`` has seen."""
        kept = state is not None or reset is not None
        if kept or not (self.training and torch.is_grad_enabled()):
            return super().forward(x, state, valid=valid, reset=reset)
        return streamed(self._recomputed, self._nothing, x, None, valid, None)

    def _run(self, x: Tensor, state: StackState, span: Span) -> tuple[Tensor, StackState]:
        pair, after = (x, x), []
        for layer, before in zip(self.layers, state.layers, strict=True):
            pair, left, _ = layer(pair, before, span, self._seeds())
            after.append(left)
        return self._joined(pair), StackState(state.position + span.count, tuple(after))

    def _recomputed(self, x: Tensor, state: StackState, span: Span) -> tuple[Tensor, StackState]:
        seeds = [self._seeds() for _ in self.layers]
        learned = [p for p in self.layers.parameters() if p.requires_grad]  # type: ignore[attr-defined]
        pair: Pair = _Undone.apply(self.layers, state, span, seeds, x, *learned)  # type: ignore[no-untyped-call]
        return self._joined(pair), state

    def _joined(self, pair: Pair) -> Tensor:
        return self.out(self.norm(torch.cat(pair, -1)))

    def _seeds(self) -> tuple[int | None, int | None]:
        """Return seeds of a layer's random draws; None where nothing is drawn."""
        if not self.training:
            return None, None
        mixing, feeding = torch.randint(2**62, (2,)).tolist()
        return mixing, feeding


class _Undone(torch.autograd.Function):
    """Layers whose activations are had back by undoing them from the last to the first."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        layers: Iterable[ReversibleLayer],
        state: StackState,
        span: Span,
        seeds: list[tuple[int | None, int | None]],
        x: Tensor,
        *learned: Tensor,
    ) -> Pair:
        pair, decisions = (x, x), []
        for layer, before, drawn in zip(layers, state.layers, seeds, strict=True):
            pair, _, decided = layer(pair, before, span, drawn)
            decisions.append(decided)
        ctx.save_for_backward(*pair, *decisions)
        ctx.rest = layers, state, span, seeds, learned
        kind = x.device.type
        ctx.autocast = {
            "device_type": kind,
            "dtype": torch.get_autocast_dtype(kind),
            "enabled": torch.is_autocast_enabled(kind),
        }
        return pair

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        first, second, *decisions = ctx.saved_tensors
        layers, state, span, seeds, learned = ctx.rest
        pair, to_pair = (first, second), (slopes[0], slopes[1])
        found: dict[Tensor, Tensor] = {}
        every = zip(layers, state.layers, seeds, decisions, strict=True)
        with torch.autocast(**ctx.autocast):
            for layer, before, drawn, decided in reversed(list(every)):
                pair, to_pair, own = layer.undone(pair, to_pair, before, span, drawn, decided)
                found |= own
        return (None, None, None, None, to_pair[0] + to_pair[1], *(found.get(p) for p in learned))


def _slopes(
    change: Tensor,
    slope: Tensor,
    given: Tensor,
    modules: Iterable[Any],
    found: dict[nn.Parameter, Tensor],
) -> Tensor:
    """Return the slope in what was given; add those in the modules' parameters to ``found``."""
    learned = [p for module in modules for p in module.parameters() if p.requires_grad]
    slope = slope.to(change.dtype)
    through, *rest = torch.autograd.grad(
        change, (given, *learned), slope, allow_unused=True, materialize_grads=True
    )
    for parameter, own in zip(learned, rest, strict=True):
        found[parameter] = found[parameter] + own if parameter in found else own
    return through


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


@contextmanager
def _repeated(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw by a seed inside, and go on outside as if nothing had been drawn."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
