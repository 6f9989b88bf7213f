"""Held-out windows to scores: every window once, whatever the size of a batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kt_forecast.errors import InputError
from kt_forecast.evaluation.conformal import Conformal, band
from kt_forecast.evaluation.predicting import (
    ForecastPredictor,
    Predicted,
    evaluating,
    predict,
    predicted,
)
from kt_forecast.metrics import Estimate
from kt_forecast.metrics.forecasting import (
    FEW_BLOCKS,
    Floats,
    Ints,
    Running,
    Sums,
    blocks_of,
    covered_name,
    intervals_in,
    metrics_of,
    pinball_name,
    seasonal_scale,
    step_metrics_of,
    width_name,
)
from kt_forecast.metrics.forecasting import compare as compare_sums
from kt_forecast.metrics.forecasting import score as score_sums
from kt_forecast.schema import N_VALUES, N_WINDOWS, STEP, UNIQUE_ID
from kt_forecast.sequences.series import SeriesSet
from kt_forecast.sequences.windows import Origins, origins

Protocol = Literal["ltsf", "stream", "rolling"]
PROTOCOLS: dict[Protocol, str] = {
    "ltsf": "every window of the test rows, one row apart, none dropped",
    "stream": "every window of the test rows, forecast from a state carried along the whole series",
    "rolling": "forecasts from origins that move on through the test rows",
}

ExampleName = Literal["best", "median", "worst", "first", "middle", "last"]

ZERO = 1e-6
"""Share of a series' own size under which the sum of a value and its forecast is taken as 0: single
precision cannot tell it from 0."""

PENDING = 2_000_000
"""Sums of windows that wait on the device before they are fetched together."""


@dataclass(frozen=True, kw_only=True)
class ForecastRules:
    """How windows are scored.

    Attributes:
        protocol: how the windows were chosen; a name of `PROTOCOLS`, for the report.
        levels: of the intervals; None for all whose two quantiles are predicted.
        resamples: how often the bootstrap draws; 0 for no intervals around the metrics.
        seed: of the draws.
        windows_per_batch: None for as many as bounded memory holds; changes no score.
        device: where to compute.
    """

    protocol: Protocol = "ltsf"
    levels: tuple[float, ...] | None = None
    resamples: int = 500
    seed: int = 0
    windows_per_batch: int | None = None
    device: torch.device | str = "cpu"


@dataclass(frozen=True)
class Example:
    """One window with its forecast for a chart, in the values' own unit; nan where missing.

    Attributes:
        name: why it was chosen: its series has the best, median or worst error; or its place.
        series: number of the series.
        row: of the series, the first step ahead.
        context: values before the origin, oldest first.
        target: values of the steps ahead.
        point: what was predicted.
        quantiles: what was predicted for each level; None where nothing was.
        levels: of the quantiles.
    """

    name: ExampleName
    series: int
    row: int
    context: Float[np.ndarray, " context"]
    target: Float[np.ndarray, " horizon"]
    point: Float[np.ndarray, " horizon"]
    quantiles: Float[np.ndarray, "horizon levels"] | None
    levels: tuple[float, ...]


@dataclass(frozen=True)
class ForecastScores:
    """What an evaluation of forecasts found.

    Attributes:
        protocol: name of the protocol.
        horizon: steps ahead.
        context: steps that were looked back on.
        stride: rows between two windows.
        levels: of the intervals.
        metrics: every metric with its interval over blocks of time.
        n_windows: scored windows, counted for each series.
        n_series: series with a scored value.
        n_values: scored values ahead.
        by_horizon: values and metrics in standardised units at each step ahead.
        by_series: windows, values and metrics of each series.
        examples: a few windows with their forecasts.
        notes: what a reader should know, one sentence each.
        sums: what the metrics were made of, for comparisons.
    """

    protocol: Protocol
    horizon: int
    context: int
    stride: int
    levels: tuple[float, ...]
    metrics: dict[str, Estimate]
    n_windows: int
    n_series: int
    n_values: int
    by_horizon: pl.DataFrame
    by_series: pl.DataFrame
    examples: tuple[Example, ...]
    notes: tuple[str, ...]
    sums: Sums


def every_window(
    series: SeriesSet, low: Ints, high: Ints, *, horizon: int, mixing: bool = False
) -> Origins:
    """Return all windows whose steps ahead lie within a span of rows, as the LTSF protocol asks.

    Args:
        series: the series.
        low: for each series, the first row of the span, counted within the series.
        high: for each series, the row after its last one.
        horizon: steps ahead.
        mixing: take all series of an aligned table as channels of one window.

    Raises:
        InputError: series are to be mixed that differ, or no span holds the horizon.
        RuntimeError: the windows of a series are not as many as its rows less the horizon plus one.
    """
    chosen = origins(series, low, high, horizon=horizon, mixing=mixing)
    expected = np.maximum(high - np.maximum(low, 1) - horizon + 1, 0)
    if not np.array_equal(chosen.count, expected[: len(chosen.count)]):
        raise RuntimeError(f"{chosen.count} windows where {expected} fit into the rows")
    if not len(chosen):
        raise InputError(
            f"no series has the {horizon} rows that a window to be scored needs ahead of it;"
            " accepted are a shorter horizon or a longer test part"
        )
    return chosen


def scale_of(series: SeriesSet, train_end: Ints, season: int) -> Floats:
    """Return the scale of each series for MASE, in the values' own unit; see `seasonal_scale`."""
    observed = None if series.observed is None else series.observed.cpu().numpy()
    standard = seasonal_scale(
        series.values.cpu().numpy(), observed, series.start.cpu().numpy(), train_end, season
    )
    return standard * series.spread.double().cpu().numpy()


@torch.inference_mode()
def evaluate(
    predictor: ForecastPredictor,
    series: SeriesSet,
    chosen: Origins,
    *,
    horizon: int,
    rules: ForecastRules | None = None,
    conformal: Conformal | None = None,
    scale: Floats | None = None,
    ids: Sequence[str] | None = None,
) -> ForecastScores:
    """Forecast windows and score every value ahead exactly once.

    Args:
        predictor: fitted on rows before those that are scored.
        series: the series.
        chosen: the windows; see `every_window`.
        horizon: steps ahead.
        rules: how they are scored.
        conformal: calibrates the quantiles before they are scored, and adds intervals.
        scale: of each series for MASE, in its own unit; see `scale_of`. None leaves MASE out.
        ids: names of the series, for the table; their numbers by default.

    Raises:
        InputError: there is no window, or an interval was asked for that is not predicted.
        RuntimeError: a window was scored twice or never, or a forecast is not finite.
    """
    rules = rules or ForecastRules()
    if not len(chosen):
        raise InputError(
            f"there is no window of {horizon} steps ahead to score; accepted are a shorter horizon"
            " or a longer test part"
        )
    series = series.to(rules.device)
    conformal = None if conformal is None else conformal.to(rules.device)
    tick = series.tick.cpu().numpy()
    scorer = _Scorer(_moments(tick, chosen), series.n_series, horizon, rules, scale)
    for seen in predicted(
        predictor, series, chosen, horizon=horizon, windows_per_batch=rules.windows_per_batch
    ):
        number, row = chosen.at(seen.numbers)
        scorer.add(_calibrated(seen, conformal), series, *_pairs(tick, chosen, number, row))
    sums = scorer.sums()
    expected = np.broadcast_to(chosen.count, series.n_series)
    if not np.array_equal(sums.by_series["windows"], expected):
        raise RuntimeError("a window was scored twice or never")
    shown = _examples(predictor, series, chosen, sums, conformal)
    return _scores(
        sums,
        rules,
        context=predictor.context,
        stride=chosen.stride,
        examples=shown,
        ids=ids,
        notes=() if conformal is None else conformal.notes,
    )


def compare(
    first: ForecastScores, second: ForecastScores, *, resamples: int = 500, seed: int = 0
) -> dict[str, Estimate]:
    """Return the metrics of ``first`` less those of ``second``, blocks drawn for both at once.

    Raises:
        InputError: they scored different windows.
    """
    try:
        return compare_sums(first.sums, second.sums, resamples=resamples, seed=seed)
    except ValueError:
        raise InputError(
            f"the scores under {first.protocol!r} with {first.horizon} steps ahead and"
            f" {second.protocol!r} with {second.horizon} are of different windows; accepted are"
            " two evaluations of the same ones"
        ) from None


@torch.inference_mode()
def validation_scores(
    predictor: ForecastPredictor,
    series: SeriesSet,
    chosen: Origins,
    *,
    horizon: int,
    windows_per_batch: int | None = None,
) -> dict[str, float]:
    """Return mean errors over windows, quickly: what training watches.

    Sums stay on the device of the series and are fetched once, at the end.

    Returns:
        ``mse`` and ``mae``, and ``pinball``, the mean over the quantiles, where some are predicted;
        in standardised units. All are nan where no window has a value.
    """
    device = series.values.device
    total: dict[str, Tensor] = {}
    for seen in predicted(
        predictor, series, chosen, horizon=horizon, windows_per_batch=windows_per_batch
    ):
        quantiles = seen.forecast.levels
        sums = {name: term.sum() for name, term in _terms(seen, ())}
        part = {"n": sums["n"], "mse": sums["squared"], "mae": sums["absolute"]}
        if quantiles:
            losses = torch.stack([sums[pinball_name(q)] for q in quantiles])
            part["pinball"] = losses.mean()
        zero = torch.zeros((), dtype=torch.float64, device=device)
        total = {name: total.get(name, zero) + value for name, value in part.items()}
    if not total:
        return {"mse": float("nan"), "mae": float("nan")}
    found = dict(zip(total, torch.stack(list(total.values())).tolist(), strict=True))
    n = found.pop("n")
    return {name: value / n if n else float("nan") for name, value in found.items()}


@dataclass(frozen=True)
class Fitted:
    """What a backtest gets for a cutoff.

    Attributes:
        predictor: fitted on rows before the cutoff.
        series: all rows, standardised by those before the cutoff.
        conformal: calibrated on rows before the cutoff.
    """

    predictor: ForecastPredictor
    series: SeriesSet
    conformal: Conformal | None = None


@dataclass(frozen=True)
class Backtest:
    """Forecasts of a rolling origin, one line a window and series, in the values' own unit.

    Attributes:
        window: number of the cutoff.
        series: number of the series.
        cutoff: of the series, the row after the last one that the forecast could read.
        fit: number of the cutoff that the predictor was fitted at.
        target: values of the steps ahead; nan where missing.
        point: what was predicted.
        quantiles: what was predicted for each level; None where nothing was.
        levels: of the quantiles.
        scores: of all windows together.
    """

    window: Int[np.ndarray, " windows"]
    series: Int[np.ndarray, " windows"]
    cutoff: Int[np.ndarray, " windows"]
    fit: Int[np.ndarray, " windows"]
    target: Float[np.ndarray, "windows horizon"]
    point: Float[np.ndarray, "windows horizon"]
    quantiles: Float[np.ndarray, "windows horizon levels"] | None
    levels: tuple[float, ...]
    scores: ForecastScores


def rolling_cutoffs(
    end: Ints, *, horizon: int, n_windows: int, step: int | None = None
) -> Int[np.ndarray, "windows series"]:
    """Return the first row ahead of each window and series; the last window ends with the series.

    Args:
        end: the row after the last one of each series, counted within it.
        horizon: steps ahead.
        n_windows: number of cutoffs.
        step: rows between two cutoffs; the horizon by default.

    Raises:
        InputError: a series is too short.
    """
    step = step or horizon
    back = horizon + step * np.arange(n_windows - 1, -1, -1)
    cutoffs = end[None, :] - back[:, None]
    short = np.flatnonzero(cutoffs[0] < 1)
    if len(short):
        raise InputError(
            f"{len(short)} series are shorter than {n_windows} windows of {horizon} steps, {step}"
            f" apart, need: series number {short[0]} has {end[short[0]]} rows; accepted are fewer"
            f" or shorter windows, or series of more than {back[0]} rows"
        )
    return cutoffs


def backtest(
    fit: Callable[[Ints], Fitted],
    cutoffs: Int[np.ndarray, "windows series"],
    *,
    horizon: int,
    refit: bool | int = False,
    mixing: bool = False,
    rules: ForecastRules | None = None,
    scale: Floats | None = None,
) -> Backtest:
    """Forecast from origins that move on, with a predictor that is fitted again or is not.

    Args:
        fit: returns a predictor, its series and its intervals for a cutoff of each series. Rows
            from the cutoff on may teach it nothing: not the predictor, nor what the series are
            standardised by. It is called for the first cutoff, whose predictor forecasts the later
            ones too where it is not fitted again.
        cutoffs: the first row ahead of each window and series, windows oldest first.
        horizon: steps ahead.
        refit: fit again at every cutoff, at none but the first, or at each so many.
        mixing: windows hold all series of an aligned table as their channels.
        rules: how the forecasts are scored; standardised units are those of each fit.
        scale: of each series for MASE, in its own unit.

    Raises:
        InputError: series are to be mixed whose cutoffs differ.
        RuntimeError: a forecast is not finite.
    """
    rules = replace(rules or ForecastRules(), protocol="rolling")
    if mixing and (cutoffs != cutoffs[:, :1]).any():
        raise InputError(
            "the series end at different rows and cannot be channels of one window; accepted is"
            " mixing = false"
        )
    every = int(refit)
    fitted, fitted_at = _on(fit(cutoffs[0]), rules.device), 0
    context, tick = fitted.predictor.context, fitted.series.tick.cpu().numpy()
    scorer = _Scorer(np.unique(tick + cutoffs), len(tick), horizon, rules, scale)
    found: list[dict[str, np.ndarray]] = []
    levels: tuple[float, ...] = ()
    for window, cutoff in enumerate(cutoffs):
        if window and every and window % every == 0:
            fitted, fitted_at = _on(fit(cutoff), rules.device), window
        first = cutoff[:1] if mixing else cutoff
        chosen = Origins(first, np.ones_like(first), mixing=mixing)
        batches = predicted(
            fitted.predictor,
            fitted.series,
            chosen,
            horizon=horizon,
            windows_per_batch=rules.windows_per_batch,
        )
        for plain in batches:
            seen = _calibrated(plain, fitted.conformal)
            moment, number = _pairs(tick, chosen, *chosen.at(seen.numbers))
            scorer.add(seen, fitted.series, moment, number)
            levels = seen.forecast.levels
            lines = {
                "window": np.full_like(number, window),
                "series": number,
                "cutoff": cutoff[number],
                "fit": np.full_like(number, fitted_at),
            }
            found.append(lines | _in_own_unit(seen, fitted.series))
    columns = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    stride = int(cutoffs[1, 0] - cutoffs[0, 0]) if len(cutoffs) > 1 else 1
    return Backtest(
        window=columns["window"],
        series=columns["series"],
        cutoff=columns["cutoff"],
        fit=columns["fit"],
        target=columns["target"],
        point=columns["point"],
        quantiles=columns.get("quantiles"),
        levels=levels,
        scores=_scores(scorer.sums(), rules, context=context, stride=stride),
    )


class _Scorer:
    """Sums of the errors of windows that are handed over in their order.

    Sums over the steps ahead of a window are made on the device in double precision and fetched
    many batches at a time.

    Args:
        moments: ticks at which windows begin, rising.
        n_series: number of series.
        horizon: steps ahead.
        rules: which intervals are scored.
        scale: of each series for MASE, in its own unit.
    """

    def __init__(
        self,
        moments: Ints,
        n_series: int,
        horizon: int,
        rules: ForecastRules,
        scale: Floats | None,
    ) -> None:
        self.moments = moments
        self.n_series = n_series
        self.horizon = horizon
        self.levels = rules.levels
        self.quantiles: tuple[float, ...] = ()
        self.scale = scale
        self.steps: dict[str, Tensor] = {}
        self.running: Running | None = None
        self.pending: list[tuple[Ints, Ints, Tensor]] = []
        self.waiting = 0
        self.names: tuple[str, ...] = ()

    def add(self, seen: Predicted, series: SeriesSet, moment: Ints, number: Ints) -> None:
        """Take a batch.

        Args:
            seen: windows with what was predicted and what came.
            series: the series, whose own units are needed.
            moment: tick at which each window of a series begins, channels of a window together.
            number: of its series.
        """
        if self.levels is None:
            self.levels = intervals_in(seen.forecast.levels)
        self.quantiles = seen.forecast.levels
        shift, spread = (x[seen.series].double()[..., None] for x in (series.shift, series.spread))
        sums = {"spread": spread[..., 0]}
        for name, term in _terms(seen, self.levels):
            sums[name] = term.sum(-1)
            self.steps[name] = self.steps.get(name, 0) + term.sum((0, 1))
        for name, term in _own_terms(seen, shift, spread):
            sums[name] = term.sum(-1)
        self.names = tuple(sums)
        self.pending.append((moment, number, torch.stack(list(sums.values())).flatten(1)))
        self.waiting += len(sums) * len(number)
        if self.waiting > PENDING:
            self._fetch()

    def sums(self) -> Sums:
        """Return the sums of all windows.

        Raises:
            RuntimeError: a forecast is not finite.
        """
        self._fetch()
        assert self.running is not None  # noqa: S101 - there is a window
        bad = [k for k, total in self.running.by_series.items() if not np.isfinite(total).all()]
        if bad:
            number = int(np.flatnonzero(~np.isfinite(self.running.by_series[bad[0]]))[0])
            raise RuntimeError(
                f"a forecast of series number {number} is not finite, or reads what came after the"
                " origin, which is nan to it"
            )
        return Sums(
            horizon=self.horizon,
            quantiles=self.quantiles,
            levels=self.levels or (),
            moment=self.moments,
            by_moment=self.running.by_moment,
            by_series=self.running.by_series,
            by_step={name: total.cpu().numpy() for name, total in self.steps.items()},
        )

    def _fetch(self) -> None:
        """Add what is pending to the sums, in the order of the windows."""
        if not self.pending:
            return
        moment = np.concatenate([part[0] for part in self.pending])
        number = np.concatenate([part[1] for part in self.pending])
        table = torch.cat([part[2] for part in self.pending], 1).cpu().numpy()
        self.pending, self.waiting = [], 0
        sums = dict(zip(self.names, table, strict=True))
        spread = sums.pop("spread")
        sums["windows"] = np.ones(len(number))
        sums["squared_original"] = sums["squared"] * spread**2
        sums["absolute_original"] = sums["absolute"] * spread
        if self.scale is not None:
            scale = self.scale[number]
            has_scale = scale > 0
            scaled = np.zeros_like(scale)
            np.divide(sums["absolute_original"], scale, out=scaled, where=has_scale)
            sums |= {"scaled": scaled, "n_scaled": sums["n"] * has_scale}
        if self.quantiles:
            losses = [sums[pinball_name(q)] for q in self.quantiles]
            sums["pinball_original"] = spread * np.mean(losses, axis=0)
        if self.running is None:
            self.running = Running(tuple(sums), len(self.moments), self.n_series)
        self.running.add(np.searchsorted(self.moments, moment), number, sums)


def _terms(
    seen: Predicted, levels: tuple[float, ...]
) -> Iterator[tuple[str, Float[Tensor, "batch channels horizon"]]]:
    """Yield what is summed up, in standardised units; 0 where a value is missing."""
    target, forecast, scored = seen.target.double(), seen.forecast, seen.scored
    n = torch.ones_like(target) if scored is None else scored.double()
    yield "n", n

    def kept(term: Tensor) -> Tensor:
        return term if scored is None else term.where(scored, 0.0)

    error = kept(forecast.point.double() - target)
    yield "squared", error.square()
    yield "absolute", error.abs()
    if forecast.quantiles is not None:
        for i, q in enumerate(forecast.levels):
            above = kept(target - forecast.quantiles[..., i].double())
            yield pinball_name(q), torch.maximum(q * above, (q - 1) * above)
    for level in levels:
        low, high = (end.double() for end in band(forecast, level))
        yield covered_name(level), kept(((low <= target) & (target <= high)).double())
        yield width_name(level), kept(high - low)


def _own_terms(
    seen: Predicted, shift: Tensor, spread: Tensor
) -> Iterator[tuple[str, Float[Tensor, "batch channels horizon"]]]:
    """Yield what is summed up in the values' own unit; 0 where a value is missing."""
    target = seen.target.double() * spread + shift
    point = seen.forecast.point.double() * spread + shift
    size = target.abs()
    both = size + point.abs()
    share = ((point - target).abs() / both).where(both > ZERO * (shift.abs() + spread), 0.0)
    for name, term in (("size_original", size), ("smape", share)):
        yield name, term if seen.scored is None else term.where(seen.scored, 0.0)


def _calibrated(seen: Predicted, conformal: Conformal | None) -> Predicted:
    if conformal is None:
        return seen
    return replace(seen, forecast=conformal.apply(seen.forecast, seen.series))


def _on(fitted: Fitted, device: torch.device | str) -> Fitted:
    conformal = None if fitted.conformal is None else fitted.conformal.to(device)
    return replace(fitted, series=fitted.series.to(device), conformal=conformal)


def _pairs(tick: Ints, chosen: Origins, number: Ints, row: Ints) -> tuple[Ints, Ints]:
    """Return the tick and the series of each channel of windows."""
    if not chosen.mixing:
        return tick[number] + row, number
    channels = np.arange(len(tick))
    return (tick[None] + row[:, None]).ravel(), np.tile(channels, len(row))


def _moments(tick: Ints, chosen: Origins) -> Ints:
    """Return the ticks at which windows begin, rising."""
    tick = tick[: len(chosen.first)]
    some = chosen.count > 0
    first = (tick + chosen.first)[some]
    last = first + (chosen.count[some] - 1) * chosen.stride
    begins = np.zeros(last.max() - first.min() + 1, dtype=np.bool_)
    spans = np.unique(np.stack([first, last], 1), axis=0) - first.min()
    for low, high in spans:
        begins[low : high + 1 : chosen.stride] = True
    return np.flatnonzero(begins) + first.min()


def _in_own_unit(seen: Predicted, series: SeriesSet) -> dict[str, np.ndarray]:
    """Return target, point and quantiles, one line a window and series; nan where missing."""
    shift, spread = (x[seen.series].double()[..., None] for x in (series.shift, series.spread))
    target = seen.target.double() * spread + shift
    if seen.scored is not None:
        target = target.where(seen.scored, torch.nan)
    found = {"target": target, "point": seen.forecast.point.double() * spread + shift}
    if seen.forecast.quantiles is not None:
        quantiles = seen.forecast.quantiles.double()
        found["quantiles"] = quantiles * spread[..., None] + shift[..., None]
    return {name: value.flatten(0, 1).cpu().numpy() for name, value in found.items()}


def _examples(
    predictor: ForecastPredictor,
    series: SeriesSet,
    chosen: Origins,
    sums: Sums,
    conformal: Conformal | None,
) -> tuple[Example, ...]:
    """Return windows for charts: the middle one of the best, median and worst series.

    Of a single series the first, the middle and the last window.
    """
    places = _shown(sums, chosen)
    numbers = np.array([number for _, _, number in places])
    with evaluating(predictor, series.values.device):
        seen = predict(predictor, series, chosen, numbers, horizon=sums.horizon)
    seen = _calibrated(seen, conformal)
    channel = [which if chosen.mixing else 0 for _, which, _ in places]
    lines = np.arange(len(places)) * seen.series.shape[1] + np.array(channel)
    found = _in_own_unit(seen, series)
    quantiles = found.get("quantiles")
    _, rows = chosen.at(numbers)
    return tuple(
        Example(
            name=name,
            series=which,
            row=int(row),
            context=_before(series, which, int(row), predictor.context),
            target=found["target"][line],
            point=found["point"][line],
            quantiles=None if quantiles is None else quantiles[line],
            levels=seen.forecast.levels,
        )
        for (name, which, _), row, line in zip(places, rows, lines, strict=True)
    )


def _shown(sums: Sums, chosen: Origins) -> list[tuple[ExampleName, int, int]]:
    """Return name, series and window number of the examples."""
    scored = np.flatnonzero(sums.by_series["n"])
    error = sums.by_series["squared"][scored] / sums.by_series["n"][scored]
    order = scored[np.argsort(error, kind="stable")]
    before = np.cumsum(chosen.count) - chosen.count

    def number(which: int, place: Callable[[int], int]) -> int:
        i = 0 if chosen.mixing else which
        return int(before[i] + place(int(chosen.count[i])))

    if len(order) < 2:
        which = int(order[0]) if len(order) else int(np.flatnonzero(chosen.count)[0])
        in_time: dict[int, ExampleName] = {
            number(which, lambda n: n - 1): "last",
            number(which, lambda n: n // 2): "middle",
            number(which, lambda _: 0): "first",
        }
        return [(name, which, at) for at, name in sorted(in_time.items())]
    by_error: dict[int, ExampleName] = {
        int(order[len(order) // 2]): "median",
        int(order[0]): "best",
        int(order[-1]): "worst",
    }
    return [
        (name, which, number(which, lambda n: n // 2))
        for name, which in sorted((name, which) for which, name in by_error.items())
    ]


def _before(series: SeriesSet, which: int, row: int, context: int) -> Floats:
    """Return the values before a row, in their own unit; nan where missing."""
    start = int(series.start[which])
    rows = slice(start + max(row - context, 0), start + row)
    values = series.values[rows].double() * series.spread[which] + series.shift[which]
    if series.observed is not None:
        values = values.where(series.observed[rows], torch.nan)
    return values.cpu().numpy()


def _scores(
    sums: Sums,
    rules: ForecastRules,
    *,
    context: int,
    stride: int,
    examples: tuple[Example, ...] = (),
    ids: Sequence[str] | None = None,
    notes: tuple[str, ...] = (),
) -> ForecastScores:
    n_series = len(sums.by_series["n"])
    scored = sums.by_series["windows"] > 0
    names = np.arange(n_series) if ids is None else np.array(ids, dtype=object)
    by_series = pl.DataFrame(
        {
            UNIQUE_ID: names[scored].tolist(),
            N_WINDOWS: sums.by_series["windows"][scored].astype(np.int64),
            N_VALUES: sums.by_series["n"][scored].astype(np.int64),
        }
        | {name: metric(sums.by_series)[scored] for name, metric in metrics_of(sums).items()}
    )
    by_horizon = pl.DataFrame(
        {
            STEP: np.arange(1, sums.horizon + 1),
            N_VALUES: sums.by_step["n"].astype(np.int64),
        }
        | {name: metric(sums.by_step) for name, metric in step_metrics_of(sums).items()}
    )
    return ForecastScores(
        protocol=rules.protocol,
        horizon=sums.horizon,
        context=context,
        stride=stride,
        levels=sums.levels,
        metrics=score_sums(sums, resamples=rules.resamples, seed=rules.seed),
        n_windows=int(sums.by_series["windows"].sum()),
        n_series=int((sums.by_series["n"] > 0).sum()),
        n_values=int(sums.by_series["n"].sum()),
        by_horizon=by_horizon,
        by_series=by_series,
        examples=examples,
        notes=(*_notes(sums, rules), *notes),
        sums=sums,
    )


def _notes(sums: Sums, rules: ForecastRules) -> Iterator[str]:
    by_series = sums.by_series
    missing = int((by_series["windows"] * sums.horizon - by_series["n"]).sum())
    if missing:
        yield f"{missing} values ahead are missing and not scored"
    scored = by_series["n"] > 0
    without = int((scored & (by_series.get("n_scaled", by_series["n"]) == 0)).sum())
    if without:
        yield (
            f"mase leaves out {without} of {int(scored.sum())} series, which have no scale: over"
            " their training rows no value differs from that of a season before, or none has one"
        )
    if rules.resamples:
        yield from _drawn_by(sums)


def _drawn_by(sums: Sums) -> Iterator[str]:
    blocks = blocks_of(sums.moment, sums.horizon, len(sums.by_series["n"]))
    if blocks.unit == "none":
        yield "the windows span too little time for an interval around the metrics"
    elif blocks.unit == "series":
        yield (
            "the windows span too little time to draw blocks of it: the intervals around the"
            f" metrics draw the {blocks.count} series"
        )
    elif blocks.count < FEW_BLOCKS:
        yield (
            f"the windows hold {blocks.count} blocks of time as long as the horizon: the intervals"
            " around the metrics rest on little"
        )
