"""What a system is: a mixer of steps, its settings, its paper and its promises."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Bool, Float
from pydantic import model_validator
from torch import Tensor, nn

from kt_forecast.config import Config, tunable
from kt_forecast.errors import InputError
from kt_forecast.sequences.series import WindowShape


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where an idea comes from."""

    title: str
    authors: str
    year: int
    url: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Exponents of growth in the sequence length, for length to infinity.

    Attributes:
        training_flops: floating-point operations of one forward and backward pass.
        training_bytes: bytes kept for the backward pass.
        step_flops: operations of one streamed step, in the number of steps before it.
        state_bytes: bytes of the streaming state, in the number of steps before it.
        root: a setting that must be near the square root of the length for these exponents to
            hold; empty where they hold for any settings.
    """

    training_flops: int | float
    training_bytes: int | float
    step_flops: int | float
    state_bytes: int | float
    root: str = ""


@dataclass(frozen=True, kw_only=True)
class Promises:
    """What a system claims; ``tests/contract`` holds every system to every claim.

    Attributes:
        causality: ``step``: output t depends on steps up to t, as published; ``step by change``:
            so by the change its docstring states; ``window``: output may depend on the whole
            context; ``pretraining``: an objective only.
        streaming: has ``init_state``; any partition into segments, single steps too, equals one
            pass.
        two_streams: takes a ``query`` stream that reads strictly earlier steps.
        cost: measured growth equals these exponents.
    """

    causality: Literal["step", "step by change", "window", "pretraining"]
    streaming: bool
    two_streams: bool
    cost: Cost

    def summary(self) -> str:
        """Say the promises in a line; T is the length."""
        cost = self.cost
        train = f"training {_power(cost.training_flops)}, memory {_power(cost.training_bytes)}"
        step = f"; streams, a step {_power(cost.step_flops)}, state {_power(cost.state_bytes)}"
        chosen = f" ({cost.root} near the root of T)" if cost.root else ""
        return f"causal: {self.causality}; {train}{step if self.streaming else ''}{chosen}"


def _power(exponent: int | float) -> str:
    named: dict[int | float, str] = {0: "1", 1: "T"}
    return named.get(exponent, f"T^{exponent:g}")


class SystemConfig(Config):
    """Settings every system has.

    Attributes:
        width: numbers in a step's vector.
    """

    width: int = 64

    @property
    def leak(self) -> str:
        """How these settings read later steps, in a few words; empty where they do not."""
        return ""


class HeadsConfig(SystemConfig):
    """Settings of a system with attention heads.

    Attributes:
        width: numbers in a step's vector.
        heads: attention heads; must divide ``width``.
        even_heads: whether a head's size must be even, as rotary positions turn pairs of numbers.
    """

    even_heads: ClassVar[bool] = True

    width: int = tunable(64, (32, 64, 128, 256), gt=0)
    heads: int = tunable(4, (2, 4, 8), gt=0)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        sizes = " into even sizes" if self.even_heads else ""
        if self.width % (self.heads * (2 if self.even_heads else 1)):
            raise ValueError(
                f"heads must divide width{sizes}, got heads={self.heads} width={self.width}"
            )
        return self


class State:
    """Base of a system's streaming state: a frozen dataclass of tensors, states and tuples."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the state with every tensor changed."""
        return type(self)(**{k: _changed(v, change) for k, v in vars(self).items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by its dotted name, to save or compare."""
        return {
            ".".join(path): tensor
            for name, value in vars(self).items()
            for path, tensor in _leaves((name,), value)
        }

    def filled(self, tensors: dict[str, Tensor]) -> Self:
        """Return the state with the tensors that `tensors` gave of one of the same kind."""
        names = iter(self.tensors())
        return self.map(lambda _: tensors[next(names)])

    def detach(self) -> Self:
        """Return the state cut off from the graph that made it."""
        return self.map(torch.Tensor.detach)

    def to(self, device: torch.device | str) -> Self:
        """Return the state on ``device``."""
        return self.map(lambda tensor: tensor.to(device))

    def numel(self) -> int:
        """Return how many numbers the state holds."""
        return sum(tensor.numel() for tensor in self.tensors().values())


@runtime_checkable
class Mixer(Protocol):
    """What every step-causal system's module does. Padding leaves the state bit-identical."""

    def init_state(self, batch: int) -> Any:  # noqa: ANN401
        """Return the state of ``batch`` sequences before their first step."""
        ...

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: Any = None,  # noqa: ANN401
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], Any]:
        """Mix the steps of ``x``, which follow those that ``state`` has seen.

        Args:
            x: embedded steps, oldest first.
            state: what earlier segments left behind; None at the start of a sequence.
            valid: False at padding; None promises that padding, if any, stands on the right and
                that the returned state is not used.
            reset: True at the first step of a new sequence, which sees nothing before it.

        Returns:
            One vector a step (meaningless at padding), and the state after the last step.
        """
        ...


@runtime_checkable
class Auxiliary(Protocol):
    """A mixer that learns from more than what its task asks of it.

    Attributes:
        auxiliary: what each step of the latest pass adds to the mean loss, its weight included;
            written in training only, None once it was read.
    """

    auxiliary: Float[Tensor, "batch time"] | None


def auxiliary_loss(
    mixer: nn.Module, real: Bool[Tensor, "batch step"] | None
) -> Float[Tensor, ""] | None:
    """Read, once, what the mixer's latest pass adds to the mean loss; None for nothing.

    Args:
        mixer: any mixer.
        real: False at padding, which adds nothing; a step may be several of the mixer's own.
    """
    if not isinstance(mixer, Auxiliary) or mixer.auxiliary is None:
        return None
    each, mixer.auxiliary = mixer.auxiliary, None
    if real is None:
        return each.mean()
    counted = real.repeat_interleave(each.shape[1] // real.shape[1], 1)
    return each.where(counted, 0.0).sum() / counted.sum().clamp_min(1)


@dataclass(frozen=True, kw_only=True)
class System:
    """One published system: what a file in ``zoo/`` or a neural baseline exports as ``SYSTEM``.

    Attributes:
        family: group in the printed catalogue.
        config: its settings, with search spaces beside the fields.
        paper: where it comes from.
        promises: what it is held to.
        build: makes the mixer of steps from the settings; None for a system that is a whole
            network and serves forecasts only.
        network: makes the whole network from the settings and the shape of the windows; it maps a
            `Window` to one number for each series, step ahead and output. None for a mixer.
        tracing: settings of the knowledge-tracing task it was published with, by field name.
        forecasting: settings of the forecasting task it was published with, by field name.
    """

    family: str
    config: type[SystemConfig]
    paper: Paper
    promises: Promises
    build: Callable[[Any], nn.Module] | None = None
    network: Callable[[Any, WindowShape], nn.Module] | None = None
    tracing: dict[str, Any] | None = None
    forecasting: dict[str, Any] | None = None

    def is_network(self, settings: SystemConfig) -> bool:
        """Return whether these settings ask for the whole network, not for the mixer."""
        published = self.network is not None and bool(getattr(settings, "published", False))
        return self.build is None or published


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:  # noqa: ANN401
    if isinstance(value, State):
        return value.map(change)
    if isinstance(value, tuple):
        return tuple(_changed(part, change) for part in value)
    return None if value is None else change(value)


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Tensor]]:  # noqa: ANN401
    if isinstance(value, State):
        for name, part in vars(value).items():
            yield from _leaves((*path, name), part)
    elif isinstance(value, tuple):
        for i, part in enumerate(value):
            yield from _leaves((*path, str(i)), part)
    elif value is not None:
        yield path, value


def modules_in(package: str) -> Iterator[str]:
    """Yield the names of a package's public modules: the folder is the registry."""
    path = import_module(package).__path__
    yield from sorted(m.name for m in iter_modules(path) if not m.name.startswith("_"))


def named(package: str, name: str, attribute: str, what: str) -> Any:  # noqa: ANN401
    """Return what the module ``name`` of ``package`` exports as ``attribute``.

    Raises:
        InputError: there is no such module; the nearest name is suggested.
    """
    known = list(modules_in(package))
    if name not in known:
        raise InputError(unknown(name, known, what))
    return getattr(import_module(f"{package}.{name}"), attribute)


def unknown(name: str, known: list[str], what: str) -> str:
    """Return the sentence that refuses an unknown name and suggests the nearest."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"no {what} is called {name!r}; {hint}"
