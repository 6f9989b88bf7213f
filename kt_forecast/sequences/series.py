"""Series as tensors: one flat array of values, and the windows that are read from it."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class SeriesSet:
    """Series that lie one after another, standardised, without holes.

    Attributes:
        values: standardised by the training rows; where one is missing, the last one before it (0
            where there is none).
        observed: False where a value was missing; None where none was.
        start: place of each series' first row, and the number of rows at the end.
        past: covariates known up to the origin.
        known: covariates known in advance.
        clock: calendar features of the grid's ticks, from the earliest stamp of all series on and
            past the latest; also known in advance. No columns where there is no calendar.
        tick: the tick at which each series starts.
        static: facts of each series.
        shift: what was subtracted from each series' values, in their own unit.
        spread: what they were then divided by.
    """

    values: Float[Tensor, " rows"]
    observed: Bool[Tensor, " rows"] | None
    start: Int[Tensor, " borders"]
    past: Float[Tensor, "rows past"]
    known: Float[Tensor, "rows known"]
    clock: Float[Tensor, "ticks calendar"]
    tick: Int[Tensor, " series"]
    static: Float[Tensor, "series static"]
    shift: Float[Tensor, " series"]
    spread: Float[Tensor, " series"]

    @property
    def n_series(self) -> int:
        """Number of series."""
        return len(self.start) - 1

    @property
    def n_known(self) -> int:
        """Columns known in advance, those of the calendar among them."""
        return self.known.shape[1] + self.clock.shape[1]

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the set with every tensor changed."""
        return type(self)(**_mapped(self, change))

    def to(self, device: torch.device | str) -> Self:
        """Return the set on ``device``."""
        return self.map(lambda tensor: tensor.to(device))


@dataclass(frozen=True, kw_only=True)
class WindowShape:
    """What a network is built for.

    Attributes:
        context: steps that a forecast may look back on.
        horizon: steps ahead.
        channels: series of a window: 1, or all series of an aligned table.
        past: covariates known up to the origin.
        known: covariates known in advance, the calendar's among them.
        static: facts of a series.
        outputs: numbers that the network gives for each step ahead: one, or one a quantile or
            parameter of a distribution.
        season: steps of the cycle.
        gaps: whether values may be missing, so that a network should be told which are real.
    """

    context: int
    horizon: int
    channels: int = 1
    past: int = 0
    known: int = 0
    static: int = 0
    outputs: int = 1
    season: int = 1
    gaps: bool = False


@dataclass(frozen=True)
class Window:
    """All that a forecast may read; what happens after the origin has no place in it.

    Attributes:
        context: values up to the origin, oldest first.
        real: False where a value is padding or was missing (and holds 0 or the last one); None
            where all are real.
        past: covariates known up to the origin.
        known: covariates known in advance, of the context and of the steps ahead.
        static: facts of each series.
    """

    context: Float[Tensor, "batch channels context"]
    real: Bool[Tensor, "batch channels context"] | None
    past: Float[Tensor, "batch channels context past"]
    known: Float[Tensor, "batch channels both known"]
    static: Float[Tensor, "batch channels static"]


@dataclass(frozen=True)
class WindowBatch:
    """Windows with what came after them.

    Attributes:
        values: context and then the steps ahead.
        real: False at padding and where a value was missing; None where all are real.
        past: covariates, of the steps ahead too: `window` leaves those out.
        known: covariates known in advance.
        static: facts of each series.
        series: number of each channel's series.
        place: number of the window; what the loop names when a loss is not finite.
        n_context: steps of the context.
    """

    values: Float[Tensor, "batch channels both"]
    real: Bool[Tensor, "batch channels both"] | None
    past: Float[Tensor, "batch channels both past"]
    known: Float[Tensor, "batch channels both known"]
    static: Float[Tensor, "batch channels static"]
    series: Int[Tensor, "batch channels"]
    place: Int[Tensor, " batch"]
    n_context: int

    @property
    def window(self) -> Window:
        """What a forecast at the origin may read."""
        length = self.n_context
        return Window(
            context=self.values[..., :length],
            real=None if self.real is None else self.real[..., :length],
            past=self.past[:, :, :length],
            known=self.known,
            static=self.static,
        )

    @property
    def target(self) -> Float[Tensor, "batch channels horizon"]:
        """The values of the steps ahead."""
        return self.values[..., self.n_context :]

    @property
    def scored(self) -> Bool[Tensor, "batch channels horizon"] | None:
        """False where a value ahead is missing; None where none is."""
        return None if self.real is None else self.real[..., self.n_context :]

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the batch with every tensor changed."""
        return type(self)(**_mapped(self, change))

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on ``device``."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True)
class Forecast:
    """What is predicted for each step ahead, in standardised units.

    Attributes:
        point: one number a step: the mean, or the median where the loss asks for it.
        quantiles: one number a step and level, rising in the last axis; None where the system
            gives none.
        levels: the levels, such as .05 and .95.
    """

    point: Float[Tensor, "batch channels horizon"]
    quantiles: Float[Tensor, "batch channels horizon levels"] | None = None
    levels: tuple[float, ...] = ()

    def to(self, device: torch.device | str) -> Self:
        """Return the forecast on ``device``."""
        quantiles = None if self.quantiles is None else self.quantiles.to(device)
        return replace(self, point=self.point.to(device), quantiles=quantiles)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:  # noqa: ANN401
    found = {field.name: getattr(value, field.name) for field in fields(value)}
    return {k: change(v) if isinstance(v, Tensor) else v for k, v in found.items()}
