"""Hourglass: most layers work on a shortened sequence, the first and the last on the whole one.

Layers at the full rate, then shorter: one token for every few steps, layers among the tokens, and
back to the full rate, where the tokens are added to what was there before. Tokens may be shortened
again. The paper shifts the steps to the right by one fewer than a token holds before it groups
them; here a token is made when the last of its steps arrives and read from that step on, which is
the same.

Departures from the paper:
    - no attention within the shortening or the lengthening, one linear map or the plain mean and
      repetition instead;
    - two layers at the full rate and two in the valley by default, where the paper stacks more;
    - rotary positions, at every rate, instead of relative ones;
    - attention weights are never dropped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attention import Cache, CausalAttention
from kt_forecast.nn.layer import Layer
from kt_forecast.nn.rates import held, latest
from kt_forecast.nn.streams import Span, streamed
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System


class HourglassConfig(HeadsConfig):
    """Settings of `Hourglass`.

    Attributes:
        width: numbers in a step's vector.
        before: layers at each rate but the lowest, before shortening.
        layers: layers at the lowest rate.
        after: layers at each rate but the lowest, after lengthening.
        hierarchy: how many steps make one token, from the full rate down.
        shorten: a token is the mean of its steps, or a linear map of them.
        lengthen: a step reads its token, or a linear map of it for each place in the token.
        heads: attention heads; must divide ``width`` into even sizes.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    before: int = tunable(1, (1, 2), ge=0)
    layers: int = tunable(2, (1, 2, 4), ge=0)
    after: int = tunable(1, (1, 2), ge=0)
    hierarchy: tuple[int, ...] = Field((3,), min_length=1)
    shorten: Literal["mean", "linear"] = tunable("linear", ("mean", "linear"))
    lengthen: Literal["repeat", "linear"] = tunable("linear", ("repeat", "linear"))
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if min(self.hierarchy) < 1:
            raise ValueError(f"hierarchy holds whole numbers from 1, got {self.hierarchy}")
        return self


@dataclass(frozen=True)
class LevelState(State):
    """What one rate keeps; the lowest keeps the caches of its layers only.

    Attributes:
        before: caches of the layers before shortening; None each for a pass without a state.
        after: caches of the layers after lengthening.
        steps: the latest steps, which the next token is made of too.
        token: the newest token, as it came back from the rates below.
    """

    before: tuple[Cache | None, ...]
    after: tuple[Cache | None, ...]
    steps: Float[Tensor, "batch kept width"] | None
    token: Float[Tensor, "batch width"] | None


@dataclass(frozen=True)
class HourglassState(State):
    """What each rate keeps, the full one first, and how many steps each row has seen."""

    position: Int[Tensor, " batch"]
    levels: tuple[LevelState, ...]


class Level(nn.Module):
    """The layers of one rate, and the way to the next lower one and back.

    Args:
        config: the system's settings.
        stride: steps in one token of the next lower rate; None for the lowest.
    """

    def __init__(self, config: HourglassConfig, stride: int | None) -> None:
        super().__init__()
        self.width, self.stride = config.width, stride
        before, after = (config.layers, 0) if stride is None else (config.before, config.after)
        self.before: Sequence[Layer] = nn.ModuleList(  # type: ignore[assignment]
            _layer(config) for _ in range(before)
        )
        self.after: Sequence[Layer] = nn.ModuleList(  # type: ignore[assignment]
            _layer(config) for _ in range(after)
        )
        many = (stride or 1) * config.width
        down, up = config.shorten == "linear", config.lengthen == "linear"
        self.down = nn.Linear(many, config.width) if stride and down else None
        self.up = nn.Linear(config.width, many) if stride and up else None

    def init_state(self, like: Float[Tensor, "batch width"], *, cached: bool) -> LevelState:
        """Return the state before the first step, with empty caches or with none.

        Args:
            like: zeros, one vector a sequence.
            cached: whether the layers shall have caches.
        """
        batch = len(like)
        before = tuple(layer.init_state(batch) if cached else None for layer in self.before)
        after = tuple(layer.init_state(batch) if cached else None for layer in self.after)
        if self.stride is None:
            return LevelState(before, after, None, None)
        steps = like.new_zeros(batch, self.stride - 1, self.width)
        return LevelState(before, after, steps, like)

    def shortened(
        self, x: Float[Tensor, "batch time width"], kept: Tensor, span: Span, stride: int
    ) -> tuple[Float[Tensor, "batch token width"], Tensor]:
        """Return the tokens made in this segment, and the steps to keep."""
        made_of, _, kept = latest(x, kept, span, stride)
        return (made_of.mean(2) if self.down is None else self.down(made_of.flatten(2))), kept

    def lengthened(
        self, tokens: Float[Tensor, "batch token width"], last: Tensor, span: Span, stride: int
    ) -> tuple[Float[Tensor, "batch time width"], Tensor]:
        """Return what each step reads of its token, and the newest token."""
        read, last = held(tokens, last, span, stride)
        if self.up is None:
            return read, last
        place = (span.position % stride)[..., None, None].expand(-1, -1, 1, self.width)
        return self.up(read).unflatten(-1, (stride, self.width)).gather(2, place)[:, :, 0], last


class Hourglass(nn.Module):
    """Transformer decoder that narrows and widens again; see `kt_forecast.nn.system.Mixer`."""

    def __init__(self, config: HourglassConfig) -> None:
        super().__init__()
        self.levels: Sequence[Level] = nn.ModuleList(  # type: ignore[assignment]
            Level(config, stride) for stride in (*config.hierarchy, None)
        )
        self.norm = nn.LayerNorm(config.width)

    def init_state(self, batch: int) -> HourglassState:
        """Return empty caches, and zeros."""
        return self._nothing(batch, cached=True)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: HourglassState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], HourglassState | None]:
        """Let each step read the steps up to it, and the tokens made by then.

        Args:
            x: embedded steps, oldest first.
            state: what earlier segments left behind; None at the start.
            valid: False at padding.
            reset: True at the first step of a new sequence.

        Returns:
            One vector a step, and the state afterwards (None for a pass without ``state``).
        """
        nothing = partial(self._nothing, cached=valid is not None or reset is not None)
        return streamed(self._run, nothing, x, state, valid, reset)

    def _nothing(self, batch: int, *, cached: bool) -> HourglassState:
        zeros = self.norm.weight.new_zeros(batch, len(self.norm.weight))
        levels = tuple(level.init_state(zeros, cached=cached) for level in self.levels)
        return HourglassState(zeros[:, 0].long(), levels)

    def _run(self, x: Tensor, state: HourglassState, span: Span) -> tuple[Tensor, HourglassState]:
        y, levels = self._through(0, x, state.levels, span)
        return self.norm(y), HourglassState(state.position + span.count, levels)

    def _through(
        self, at: int, x: Tensor, states: tuple[LevelState, ...], span: Span
    ) -> tuple[Tensor, tuple[LevelState, ...]]:
        """Run one level and those below it."""
        level, state, below = self.levels[at], states[0], states[1:]
        if span.length == 0:
            return x, states
        x, before = _stacked(level.before, x, state.before, span)
        if level.stride is None or state.steps is None or state.token is None:
            return x, (LevelState(before, (), None, None),)
        tokens, steps = level.shortened(x, state.steps, span, level.stride)
        tokens, below = self._through(at + 1, tokens, below, span.shortened(level.stride))
        read, token = level.lengthened(tokens, state.token, span, level.stride)
        x, after = _stacked(level.after, x + read, state.after, span)
        return x, (LevelState(before, after, steps, token), *below)


def _layer(config: HourglassConfig) -> Layer:
    attention = CausalAttention(config.width, config.heads)
    inner = config.expansion * config.width
    return Layer(attention, config.width, inner=inner, dropout=config.dropout)


def _stacked(
    layers: Iterable[Layer], x: Tensor, caches: tuple[Cache | None, ...], span: Span
) -> tuple[Tensor, tuple[Cache | None, ...]]:
    """Run layers one after another; without caches in one pass."""
    after = []
    for layer, cache in zip(layers, caches, strict=True):
        x, left = layer(x, x, cache, None if cache is None else span.real, None)
        after.append(left)
    return x, tuple(after)


SYSTEM = System(
    family="hierarchy",
    config=HourglassConfig,
    build=Hourglass,
    paper=Paper(
        title="Hierarchical Transformers Are More Efficient Language Models",
        authors="Nawrot, Tworkowski, Tyrolski, Kaiser, Wu, Szegedy, Michalewski",
        year=2022,
        url="https://arxiv.org/abs/2110.13711",
    ),
    promises=Promises(
        causality="step",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=2, training_bytes=1, step_flops=1, state_bytes=1),
    ),
    tracing={"scheme": "shifted"},
)
