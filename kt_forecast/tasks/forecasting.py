"""Forecasting as a task: which information is legal when, and how any system is put to it.

A forecast for an origin may read values up to the origin, static facts, and covariates declared
known in advance; past-only covariates stop at the origin. What comes after has no place in
`Window`, which is all that a network is given.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from kt_forecast.config import Config, Range, tunable
from kt_forecast.errors import InputError
from kt_forecast.nn.system import State, System, SystemConfig, auxiliary_loss
from kt_forecast.sequences.series import Forecast, Window, WindowBatch, WindowShape
from kt_forecast.sequences.stretches import SeriesPart

Output = Literal["point", "quantile", "student_t"]
Loss = Literal["mse", "mae", "huber", "pinball", "crps", "nll"]
LOSSES: dict[Output, tuple[Loss, ...]] = {
    "point": ("mse", "mae", "huber"),
    "quantile": ("pinball", "crps"),
    "student_t": ("nll",),
}
STEP_CAUSAL = ("step", "step by change")
EPSILON = 1e-5
OWN_WIDTH = 8
"""Numbers that a step ahead has of its own where it meets covariates known in advance."""
JOIN_WIDTH = 32
LEAST_FREEDOM = 2.0
"""A Student-t with fewer degrees of freedom has no variance."""
FIRST_FREEDOM = 2.0


class ForecastingConfig(Config):
    """Settings of the forecasting task.

    Attributes:
        context: steps that a forecast looks back on.
        horizon: steps ahead.
        normalisation: what a window's values are measured from: nothing; its last value; its mean
            and spread (reversible instance normalisation, Kim et al. 2022). With ``dense``, the
            mean and spread of the values up to each origin.
        patch: steps in one token of a system that mixes steps.
        mixing: whether a token, or the network, takes all series of an aligned table at once.
        dense: forecast from the end of every patch of a window, for systems whose step t reads
            nothing after t; else from the end of the window only.
        output: what is predicted for a step ahead: a number, quantiles, or a Student-t
            distribution.
        levels: of the quantiles; one of them is the median.
        loss: what training lowers.
        least: steps that must lie before an origin for it to be trained on, where ``dense``.
        linear: steps back that one linear map to the horizon reads, beside a system that mixes
            steps; 0 is none.
        start: what training starts from: small random forecasts, or the closed-form ridge of the
            training windows in the linear map, which the system then corrects.
        covariates: read the covariates, past, future and static.
        calendar: read the calendar of the stamps as covariates known in advance.
        dropout: probability of dropping a number of a token, and of the head's input.
        windows_per_batch: windows of a batch.
        windows_per_epoch: windows of an epoch; None for all.
        stride: rows between two training windows.
    """

    context: int = tunable(336, (96, 192, 336, 512, 720), ge=1)
    horizon: int = Field(96, ge=1)
    normalisation: Literal["none", "last", "window"] = tunable("window", ("none", "last", "window"))
    patch: int = tunable(16, (4, 8, 12, 16, 24, 48), ge=1)
    mixing: bool = False
    dense: bool = False
    output: Output = "point"
    levels: tuple[float, ...] = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)
    loss: Loss = tunable("mse", ("mse", "mae", "huber"))
    least: int = Field(1, ge=1)
    linear: int = tunable(0, (0, 96, 192, 336), ge=0)
    start: Literal["random", "ridge"] = tunable("random", ("random", "ridge"))
    covariates: bool = True
    calendar: bool = False
    dropout: float = tunable(0.0, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)
    windows_per_batch: int = tunable(256, (32, 64, 128, 256, 512), ge=1)
    windows_per_epoch: int | None = Field(None, ge=1)
    stride: int = Field(1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _loss_of_output(cls, given: Any) -> Any:  # noqa: ANN401
        """Let the output choose its own loss where none is named."""
        if isinstance(given, dict) and "loss" not in given and given.get("output") in LOSSES:
            return given | {"loss": LOSSES[given["output"]][0]}
        return given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.loss not in LOSSES[self.output]:
            raise ValueError(
                f"loss {self.loss!r} does not train output {self.output!r}; accepted for it: "
                f"{', '.join(LOSSES[self.output])}"
            )
        if self.start == "ridge" and not (self.linear and self.output == "point"):
            raise ValueError("start = 'ridge' fills the linear map of a point forecast: set linear")
        if self.start == "ridge" and self.normalisation == "window" and self.linear < self.context:
            raise ValueError(
                "start = 'ridge' goes with normalisation 'last' or 'none', or with a linear map of"
                " the whole context"
            )
        rising = all(a < b for a, b in zip(self.levels, self.levels[1:], strict=False))
        inside = all(0.0 < level < 1.0 for level in self.levels)
        if not (rising and inside and 0.5 in self.levels):
            raise ValueError(
                f"levels {self.levels} must rise, lie between 0 and 1 and hold the median, 0.5"
            )
        for name, steps in (("linear", self.linear), ("least", self.least)):
            if steps > self.context:
                raise ValueError(f"{name} is {steps}, which exceeds the context of {self.context}")
        return self

    @property
    def outputs(self) -> int:
        """Numbers that a network gives for each step ahead."""
        return {"point": 1, "quantile": len(self.levels), "student_t": 2}[self.output]

    @property
    def origins(self) -> int:
        """Origins of a window that are trained on: one patch apart, the last one at its end."""
        return 1 + (self.context - self.least) // self.patch if self.dense else 1


def refuse_unfit(system: System, settings: SystemConfig, task: ForecastingConfig) -> None:
    """Refuse a system that cannot be trained so.

    Raises:
        InputError: it is asked to forecast from every patch, and reads later ones; or it has no
            head that could be silent at first.
    """
    if task.start == "ridge" and system.is_network(settings):
        raise InputError(
            "start = 'ridge' is corrected by a system that mixes steps, and this one is a whole"
            " network; accepted is start = 'random'"
        )
    if not task.dense:
        return
    if system.is_network(settings) or system.promises.causality not in STEP_CAUSAL:
        raise InputError(
            "dense = true forecasts from every patch, for which each may read earlier ones only;"
            " this system reads the whole window: accepted is dense = false"
        )
    if settings.leak:
        raise InputError(f"{settings.leak}; accepted is dense = false")


@dataclass(frozen=True)
class Measured(State):
    """What the values of a stream so far add up to, measured from its first one.

    Attributes:
        position: steps read.
        level: the first value.
        count: values that were real.
        total: their distances from the first one, summed.
        square: their squares, summed.
        shift: what the last patch was measured from.
        spread: and by.
    """

    position: Int[Tensor, " batch"]
    level: Float[Tensor, "batch channels"]
    count: Float[Tensor, "batch channels"]
    total: Float[Tensor, "batch channels"]
    square: Float[Tensor, "batch channels"]
    shift: Float[Tensor, "batch channels"]
    spread: Float[Tensor, "batch channels"]


@dataclass(frozen=True)
class ForecasterState(State):
    """What a `SeriesForecaster` knows of each stream of a batch.

    Attributes:
        mixer: the system's own state.
        measured: what its values are measured by.
        latest: the last values, as many as the linear map reads.
    """

    mixer: Any
    measured: Measured
    latest: Float[Tensor, "batch channels linear"]


def refuse_unstreamed(name: str, system: System | None, task: ForecastingConfig) -> None:
    """Refuse what cannot go on from a state over whole series.

    Args:
        name: of the system.
        system: None for what is none.
        task: the task's settings.

    Raises:
        InputError: the system keeps no state, or forecasts from the ends of windows alone.
    """
    if system is None or system.build is None or not system.promises.streaming:
        raise InputError(
            f"{name} keeps no state that could be carried over a series; accepted is a system that"
            " streams, as `kt-forecast zoo` says of each"
        )
    if not task.dense:
        raise InputError(
            "forecasting.dense is false, so that there are forecasts of whole windows only; streams"
            " of series accept dense = true"
        )


class SeriesForecaster(nn.Module):
    """Normalises windows, lets a system read them, and predicts the steps ahead.

    Args:
        system: the mixer of steps, or the whole network.
        settings: the system's own settings.
        task: the task's settings.
        shape: what the windows hold; context, horizon and outputs are the task's.

    Raises:
        InputError: the system cannot be trained so.
    """

    def __init__(
        self, system: System, settings: SystemConfig, task: ForecastingConfig, shape: WindowShape
    ) -> None:
        super().__init__()
        refuse_unfit(system, settings, task)
        self.task = task
        self.context = task.context
        self.shape = _read_shape(task, shape)
        self.is_patched = not system.is_network(settings)
        self.network: Any
        if self.is_patched:
            assert system.build is not None  # noqa: S101 - what `is_network` says
            self.network = Patches(system.build(settings), settings.width, task, self.shape)
        else:
            assert system.network is not None  # noqa: S101 - a system has the one or the other
            self.network = system.network(settings, self.shape)
        self.median = task.levels.index(0.5)
        self.freedom: Tensor | None = None
        if task.output == "student_t":
            self.freedom = nn.Parameter(torch.full((task.horizon,), FIRST_FREEDOM))
        self.linear: nn.Linear | None = None
        if task.linear:
            self.linear = nn.Linear(task.linear, task.horizon)
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(
        self, window: Window, *, origins: int = 1
    ) -> Float[Tensor, "batch channels origins horizon outputs"]:
        """Return the outputs for the steps ahead, in the units of the context.

        Args:
            window: may be longer than the context; its last steps are read.
            origins: from the ends of how many of the last patches, where the task is dense.
        """
        window = self._read(window)
        shift, spread, _ = self._measured(window, None)
        if self.is_patched:
            raw = self._patches(window, shift, spread, origins)
        else:
            raw = self.network(replace(window, context=(window.context - shift) / spread))
            raw = raw[:, :, None]
        return self._added_up(raw, window.context, shift[..., -origins:], spread[..., -origins:])

    def init_state(self, rows: int) -> ForecasterState:
        """Return the state of streams before their first step."""
        weight = next(self.parameters())
        numbers = weight.new_zeros(rows, self.shape.channels)
        sums = numbers.double()
        return ForecasterState(
            mixer=self.network.mixer.init_state(rows),
            measured=Measured(
                position=torch.zeros(rows, dtype=torch.int64, device=weight.device),
                level=numbers,
                count=sums,
                total=sums,
                square=sums,
                shift=numbers,
                spread=numbers,
            ),
            latest=weight.new_zeros(rows, self.shape.channels, self.task.linear),
        )

    def read(
        self, window: Window, state: ForecasterState
    ) -> tuple[Float[Tensor, "batch channels origins horizon outputs"], ForecasterState]:
        """Forecast from the end of every patch of the next steps of streams.

        Equal to what is forecast from there with all that came before as the context. Channels are
        those that share a token.

        Args:
            window: whole patches, that follow those which ``state`` has seen; padding stands on the
                right of rows that end here.
            state: what earlier steps left behind.

        Returns:
            The outputs in the units of the context, and the state after the last step.
        """
        window, size = self._legal(window), self.task.patch
        origins = window.context.shape[-1] // size
        begins = (state.measured.position == 0)[:, None]
        first = window.context[..., 0]
        level = torch.where(begins, first, state.measured.level)
        shift, spread, measured = self._measured(window, replace(state.measured, level=level))
        assert measured is not None  # noqa: S101 - what was carried goes on
        # Nothing moved before the first patch.
        before = torch.where(
            begins,
            torch.stack([shift[..., 0], spread[..., 0]]),
            torch.stack([state.measured.shift, state.measured.spread]),
        )
        valid = self._known(window, state)
        raw, mixer = self.network.carried(
            window, shift, spread, origins, state.mixer, before=before, valid=valid
        )
        latest = torch.where(begins[..., None], first[..., None], state.latest)
        joined = torch.cat([latest, window.context], -1)
        out = self._added_up(raw, joined, shift, spread)
        kept = joined[..., joined.shape[-1] - self.task.linear :]
        return out, ForecasterState(mixer=mixer, measured=measured, latest=kept)

    def loss(self, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """Return the summed loss of the steps ahead that have a value, and their number.

        From every patch where the task is dense: the steps ahead of each are a view. In training
        the sum holds what the system itself adds.
        """
        out = self(batch.window, origins=self.task.origins)
        length = self.context + self.task.horizon
        target = _ahead(batch.values[..., -length:], self.task, out.shape[2])
        scored = None
        if batch.real is not None:
            real = batch.real[..., -length:]
            begun = real[..., : self.context].cumsum(-1) > 0
            ends = _patched(begun, self.task.patch)[..., -out.shape[2] :, -1:]
            scored = _ahead(real, self.task, out.shape[2]) & ends
        total, count = self._losses(out, target, scored)
        added = self._added(self._read(batch.window)) if self.is_patched else None
        return total if added is None else total + count * added, count

    def carried_loss(
        self, part: SeriesPart, state: ForecasterState
    ) -> tuple[Tensor, Tensor, ForecasterState]:
        """Return the loss of forecasts from the end of every patch of the next steps of streams.

        Returns:
            The sum, the number of values ahead, and the state afterwards, through which gradients
            flow.
        """
        batch, size = part.batch, self.task.patch
        out, after = self.read(batch.window, state)
        ends = part.inside[:, size - 1 :: size]
        counts = ends & (self._ends(part, state) >= self.task.least)
        begun = self._known(batch.window, state)
        counts = counts if begun is None else counts & begun
        scored = counts[:, None, :, None]
        if batch.real is not None:
            scored = scored & _ahead(batch.real, self.task, out.shape[2])
        target = _ahead(batch.values, self.task, out.shape[2])
        total, count = self._losses(out, target, scored)
        added = auxiliary_loss(self.network.mixer, ends if begun is None else ends & begun)
        return total if added is None else total + count * added, count, after

    @torch.no_grad()
    def start_from(
        self, weight: Float[Tensor, "linear horizon"], intercept: Float[Tensor, " horizon"]
    ) -> None:
        """Take a linear map, and let the system add nothing to it until it has learned what.

        Args:
            weight: of the last steps before the origin, oldest first, for each step ahead.
            intercept: of each step ahead.
        """
        assert self.linear is not None  # noqa: S101 - what the settings ask for
        self.linear.weight.copy_(weight.T)
        self.linear.bias.copy_(intercept)
        self.network.head.silence()

    def predict(self, batch: WindowBatch) -> Forecast:
        """Return what is predicted for the steps ahead of each window."""
        return self.forecast(self(batch.window)[:, :, 0])

    def forecast(self, out: Float[Tensor, "batch channels horizon outputs"]) -> Forecast:
        """Return what the outputs of some origins say."""
        if self.task.output == "point":
            return Forecast(out[..., 0])
        if self.task.output == "quantile":
            return Forecast(out[..., self.median], out, self.task.levels)
        return Forecast(out[..., 0], self._student_quantiles(out), self.task.levels)

    def _read(self, window: Window) -> Window:
        """Return the part of a window that the settings let the network read."""
        length = self.context
        both = length + self.task.horizon
        window = self._legal(window)
        return Window(
            context=window.context[..., -length:],
            real=None if window.real is None else window.real[..., -length:],
            past=window.past[:, :, -length:],
            known=window.known[:, :, -both:],
            static=window.static,
        )

    def _legal(self, window: Window) -> Window:
        """Return a window without the covariates, where the settings leave them out."""
        if self.task.covariates:
            return window
        none = slice(0, 0)
        return replace(
            window,
            past=window.past[..., none],
            known=window.known[..., none],
            static=window.static[..., none],
        )

    def _known(self, window: Window, state: ForecasterState) -> Bool[Tensor, "batch origin"] | None:
        """Return at which patches of a stream a value has been seen; None for all."""
        if window.real is None:
            return None
        return _begun(window.real, self.task.patch) | (state.measured.count > 0).any(1)[:, None]

    def _ends(self, part: SeriesPart, state: ForecasterState) -> Int[Tensor, "batch origin"]:
        """Return how many steps have been read by the end of each patch of a stream."""
        size = self.task.patch
        ends = torch.arange(size, part.inside.shape[1] + 1, size, device=part.inside.device)
        return state.measured.position[:, None] + ends

    def _added_up(
        self, raw: Tensor, context: Tensor, shift: Tensor, spread: Tensor
    ) -> Float[Tensor, "batch channels origins horizon outputs"]:
        """Return what the network and the linear map say, in the units of the context."""
        if self.linear is not None:
            raw = raw + self._straight(self.linear, context, shift, spread)[..., None]
        # Autocast gives halves; levels far from zero need all digits of a float.
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        return self._outputs(raw, shift[..., None, None], spread[..., None, None])

    def _measured(
        self, window: Window, before: Measured | None
    ) -> tuple[
        Float[Tensor, "batch channels origin"],
        Float[Tensor, "batch channels origin"],
        Measured | None,
    ]:
        """Return what values are measured from and by: for the window, or at each patch's end.

        A patch's own are made of the values up to its end, so that nothing later can be read off.

        Args:
            window: the values.
            before: what earlier values of a stream add up to, with the level to measure from.

        Returns:
            Shift and spread, and of a stream what the values add up to afterwards.
        """
        if before is None:
            return *self._window_measured(window), None
        size, context = self.task.patch, window.context
        values = _patched(context, size).double()
        weight = (
            values.new_ones(()) if window.real is None else _patched(window.real, size).double()
        )
        weight = weight.expand(values.shape)
        away = values - before.level[..., None, None].double()
        count, total, square = (
            carried[..., None] + term.sum(-1).cumsum(-1)
            for carried, term in (
                (before.count, weight),
                (before.total, away * weight),
                (before.square, away.square() * weight),
            )
        )
        shift, spread = values[..., -1], torch.ones_like(values[..., -1])
        if self.task.normalisation == "none":
            shift = torch.zeros_like(shift)
        elif self.task.normalisation == "window":
            mean = total / count.clamp_min(1.0)
            variance = square / count.clamp_min(1.0) - mean.square()
            shift = before.level[..., None] + mean
            spread = variance.clamp_min(0.0).add(EPSILON).sqrt()
        shift, spread = shift.to(context.dtype), spread.to(context.dtype)
        after = Measured(
            position=before.position + context.shape[-1],
            level=before.level,
            count=count[..., -1],
            total=total[..., -1],
            square=square[..., -1],
            shift=shift[..., -1],
            spread=spread[..., -1],
        )
        return shift, spread, after

    def _window_measured(
        self, window: Window
    ) -> tuple[Float[Tensor, "batch channels origin"], Float[Tensor, "batch channels origin"]]:
        """Return what the values of a window are measured from and by; see `_measured`."""
        task, context = self.task, window.context
        values = _patched(context, task.patch) if task.dense else context[..., None, :]
        last = values[..., -1]
        if task.normalisation == "none":
            return torch.zeros_like(last), torch.ones_like(last)
        if task.normalisation == "last":
            return last, torch.ones_like(last)
        weight = torch.ones_like(context) if window.real is None else window.real.to(context)
        # The patch that fills up the window on the left is no value.
        weight = _patched(weight, task.patch, fill=0.0) if task.dense else weight[..., None, :]
        count = weight.sum(-1).cumsum(-1).clamp_min(1.0)
        # Distances from the first value: a high level must not cost the squares their digits.
        level = context[..., :1]
        values = values - level[..., None]
        mean = (values * weight).sum(-1).cumsum(-1) / count
        square = (values.square() * weight).sum(-1).cumsum(-1) / count
        spread = (square - mean.square()).clamp_min(0.0).add(EPSILON).sqrt()
        return level + mean, spread

    def _straight(
        self, linear: nn.Linear, context: Tensor, shift: Tensor, spread: Tensor
    ) -> Tensor:
        """Return the linear map of the values before each origin, measured as the origin's are.

        It is a convolution of the values as they are, so that no origin needs its own copy.
        """
        apart = self.task.patch
        missing = max((shift.shape[-1] - 1) * apart + self.task.linear - context.shape[-1], 0)
        left = context[..., :1].expand(*context.shape[:-1], missing)
        kept = self.task.linear + (shift.shape[-1] - 1) * apart
        x = torch.cat([left, context], -1)[..., -kept:].flatten(0, 1)[:, None]
        found = F.conv1d(x, linear.weight[:, None], stride=apart)
        found = found.mT.unflatten(0, context.shape[:2]) - shift[..., None] * linear.weight.sum(1)
        return found / spread[..., None] + linear.bias

    def _patches(self, window: Window, shift: Tensor, spread: Tensor, origins: int) -> Tensor:
        """Return the outputs of the mixed patches; channels that are not mixed are rows."""
        if self.task.mixing:
            return self.network(window, shift, spread, origins)
        channels = window.context.shape[1]
        rows = Window(
            context=_as_rows(window.context),
            real=None if window.real is None else _as_rows(window.real),
            past=_as_rows(window.past),
            known=_as_rows(window.known),
            static=_as_rows(window.static),
        )
        raw = self.network(rows, _as_rows(shift), _as_rows(spread), origins)
        return raw.squeeze(1).unflatten(0, (-1, channels))

    def _added(self, window: Window) -> Tensor | None:
        """Return what the mixer of the patches adds to the mean loss."""
        real = window.real
        if real is not None:
            real = _begun(real if self.task.mixing else _as_rows(real), self.task.patch)
        return auxiliary_loss(self.network.mixer, real)

    def _outputs(self, raw: Tensor, shift: Tensor, spread: Tensor) -> Tensor:
        """Return outputs in the units of the context; quantiles rise, scales are positive."""
        if self.task.output == "point":
            return raw * spread + shift
        if self.task.output == "student_t":
            scale = (F.softplus(raw[..., 1:]) + EPSILON) * spread
            return torch.cat([raw[..., :1] * spread + shift, scale], -1)
        middle = raw[..., self.median : self.median + 1]
        below = F.softplus(raw[..., : self.median]).flip(-1).cumsum(-1).flip(-1)
        above = F.softplus(raw[..., self.median + 1 :]).cumsum(-1)
        return torch.cat([middle - below, middle, middle + above], -1) * spread + shift

    def _losses(self, out: Tensor, target: Tensor, scored: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the summed loss of scored steps, and their number."""
        each = self._each(out, target)
        if scored is None:
            return each.sum(), each.new_tensor(float(each.numel()))
        return (each * scored).sum(), scored.expand(each.shape).sum().to(each.dtype)

    def _each(self, out: Tensor, target: Tensor) -> Tensor:
        name = self.task.loss
        if name == "mse":
            return (out[..., 0] - target).square()
        if name == "mae":
            return (out[..., 0] - target).abs()
        if name == "huber":
            return F.huber_loss(out[..., 0], target, reduction="none")
        if name == "nll":
            return self._negative_log_likelihood(out, target)
        levels = out.new_tensor(self.task.levels)
        error = target[..., None] - out
        pinball = torch.maximum(levels * error, (levels - 1.0) * error).mean(-1)
        # Twice the mean pinball loss is the ranked probability score over the levels.
        return 2.0 * pinball if name == "crps" else pinball

    def _degrees(self) -> Tensor:
        assert self.freedom is not None  # noqa: S101 - made where the output is a Student-t
        return LEAST_FREEDOM + F.softplus(self.freedom)

    def _negative_log_likelihood(self, out: Tensor, target: Tensor) -> Tensor:
        freedom, scale = self._degrees(), out[..., 1]
        z = (target - out[..., 0]) / scale
        log_norm = (
            torch.lgamma((freedom + 1) / 2)
            - torch.lgamma(freedom / 2)
            - 0.5 * torch.log(freedom * torch.pi)
        )
        return 0.5 * (freedom + 1) * torch.log1p(z.square() / freedom) + scale.log() - log_norm

    def _student_quantiles(self, out: Tensor) -> Tensor:
        from scipy.special import stdtrit

        freedom = self._degrees().detach().double().cpu().numpy()
        unit = stdtrit(freedom[:, None], np.array(self.task.levels)[None])
        return out[..., :1] + out[..., 1:] * torch.from_numpy(unit).to(out)


class Patches(nn.Module):
    """Turns stretches of a series into tokens, mixes them, and predicts from them.

    A token holds the values of its patch, the covariates of its steps and, where normalisation
    moves from origin to origin, how it moved.

    Args:
        mixer: lets tokens read earlier ones.
        width: numbers of a token.
        task: the task's settings.
        shape: what the windows hold.
    """

    def __init__(
        self, mixer: nn.Module, width: int, task: ForecastingConfig, shape: WindowShape
    ) -> None:
        super().__init__()
        self.mixer = mixer
        self.task = task
        self.shape = shape
        per_step = 1 + shape.past + shape.known + shape.gaps
        per_token = task.patch * per_step + (2 if task.dense else 0)
        self.embed = nn.Linear(shape.channels * per_token, width)
        self.facts = nn.Linear(shape.channels * shape.static, width) if shape.static else None
        self.dropout = nn.Dropout(task.dropout)
        tokens = 1 if task.dense else -(-task.context // task.patch)
        self.head = Head(tokens * width, shape)

    def forward(
        self,
        window: Window,
        shift: Float[Tensor, "batch channels patches"],
        spread: Float[Tensor, "batch channels patches"],
        origins: int,
    ) -> Float[Tensor, "batch channels origins horizon outputs"]:
        """Return the outputs from the ends of the last patches.

        Args:
            window: its channels share a token.
            shift: what values are measured from.
            spread: and by.
            origins: how many patches.
        """
        valid = None if window.real is None else _begun(window.real, self.task.patch)
        return self.carried(window, shift, spread, origins, None, before=None, valid=valid)[0]

    def carried(
        self,
        window: Window,
        shift: Tensor,
        spread: Tensor,
        origins: int,
        state: Any,  # noqa: ANN401
        *,
        before: Float[Tensor, "two batch channels"] | None,
        valid: Bool[Tensor, "batch patch"] | None,
    ) -> tuple[Float[Tensor, "batch channels origins horizon outputs"], Any]:
        """Return the outputs of patches that follow those ``state`` has seen; see `forward`.

        Args:
            window: its channels share a token.
            shift: what values are measured from.
            spread: and by.
            origins: how many patches.
            state: the mixer's; None for a pass of its own.
            before: shift and spread of the patch before; None where there is none.
            valid: at which patches a value has been seen; None for all.
        """
        x = self._tokens(window, shift, spread, before)
        x = self.embed(x.transpose(1, 2).flatten(2))
        if self.facts is not None:
            x = x + self.facts(window.static.flatten(1))[:, None]
        y, state = self.mixer(self.dropout(x), state, valid=valid)
        if valid is not None:
            y = y * valid[..., None]
        y = y[:, -origins:] if self.task.dense else y.flatten(1)[:, None]
        known = None
        if self.shape.known:
            known = _ahead(window.known.mT, self.task, y.shape[1]).movedim(2, -1)
        return self.head(self.dropout(y), known), state

    def _tokens(
        self, window: Window, shift: Tensor, spread: Tensor, earlier: Tensor | None
    ) -> Tensor:
        """Return what each token holds of each channel."""
        size, context = self.task.patch, window.context
        parts = [(_patched(context, size) - shift[..., None]) / spread[..., None]]
        if self.task.dense:
            one, other = (shift[..., 0], spread[..., 0]) if earlier is None else earlier
            before = torch.cat([one[..., None], shift[..., :-1]], -1)
            scale = torch.cat([other[..., None], spread[..., :-1]], -1)
            parts.append(torch.stack([(shift - before) / spread, (spread / scale).log()], -1))
        if self.shape.gaps:
            real = torch.ones_like(context) if window.real is None else window.real.to(context)
            parts.append(_patched(real, size, fill=0.0))
        known = window.known[:, :, : context.shape[-1]]
        parts.extend(
            _patched(covariates.mT, size).transpose(2, 3).flatten(3)
            for covariates in (window.past, known)
            if covariates.shape[-1]
        )
        return torch.cat(parts, -1)


class Head(nn.Module):
    """Predicts all steps ahead of each origin from one vector.

    Covariates known in advance are read at the step ahead that they belong to: a linear map gives
    each step some numbers of its own, and a small network joins them with the covariates.

    Args:
        width: numbers in an origin's vector.
        shape: what the windows hold.
    """

    def __init__(self, width: int, shape: WindowShape) -> None:
        super().__init__()
        self.shape = shape
        self.out = nn.Linear(width, shape.channels * shape.horizon * shape.outputs)
        self.own: nn.Linear | None = None
        if shape.known:
            self.own = nn.Linear(width, shape.channels * shape.horizon * OWN_WIDTH)
            self.join = nn.Linear(OWN_WIDTH + shape.known, JOIN_WIDTH)
            self.joined = nn.Linear(JOIN_WIDTH, shape.outputs)

    def silence(self) -> None:
        """Let the first outputs be zero."""
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        if self.own is not None:
            nn.init.zeros_(self.joined.weight)
            nn.init.zeros_(self.joined.bias)

    def forward(
        self,
        y: Float[Tensor, "batch origin width"],
        known: Float[Tensor, "batch channels origin horizon known"] | None,
    ) -> Float[Tensor, "batch channels origin horizon outputs"]:
        """Return the outputs of each step ahead."""
        out = self._ahead(self.out(y), self.shape.outputs)
        if self.own is not None and known is not None:
            own = torch.cat([self._ahead(self.own(y), OWN_WIDTH), known], -1)
            out = out + self.joined(F.gelu(self.join(own), approximate="tanh"))
        return out

    def _ahead(self, flat: Tensor, size: int) -> Tensor:
        shape = (self.shape.channels, self.shape.horizon, size)
        return flat.unflatten(-1, shape).transpose(1, 2)


def _as_rows(x: Tensor) -> Tensor:
    """Return a tensor whose channels are rows of one channel."""
    return x.flatten(0, 1)[:, None]


def _read_shape(task: ForecastingConfig, shape: WindowShape) -> WindowShape:
    """Return the shape of what the network is given."""
    shape = replace(
        shape,
        context=task.context,
        horizon=task.horizon,
        outputs=task.outputs,
        channels=shape.channels if task.mixing else 1,
    )
    return shape if task.covariates else replace(shape, past=0, known=0, static=0)


def _patched(x: Tensor, size: int, *, fill: float | None = None) -> Tensor:
    """Return the last axis as patches that end where it ends.

    Args:
        x: values, oldest first.
        size: steps of a patch.
        fill: what fills up the first patch on the left; its first value by default.
    """
    missing = -x.shape[-1] % size
    if missing:
        left = x[..., :1] if fill is None else torch.full_like(x[..., :1], fill)
        x = torch.cat([left.expand(*x.shape[:-1], missing), x], -1)
    return x.unflatten(-1, (-1, size))


def _begun(real: Tensor, patch: int) -> Tensor:
    """Return, row by row, at which patches the first value of any channel has been seen."""
    return _patched(real.any(1).cumsum(-1) > 0, patch)[..., -1]


def _ahead(values: Tensor, task: ForecastingConfig, origins: int) -> Tensor:
    """Return the steps ahead of the last origins, one patch apart, as a view.

    Args:
        values: context and steps ahead, in the last axis.
        task: names their sizes.
        origins: how many.
    """
    first = values.shape[-1] - task.horizon - (origins - 1) * task.patch
    return values[..., first:].unfold(-1, task.horizon, task.patch)
