"""How good forecasts are, from sums over the steps ahead of each window.

A pass over the windows leaves sums behind, never the errors themselves: for each moment at which
forecasts begin, for each series and for each step ahead. Every metric is a ratio of such sums.

The errors of neighbouring windows are nearly the same errors, so intervals come from drawing
blocks of time, at least a horizon long, with replacement (Künsch 1989; blocks run on from the end
to the beginning, Politis and Romano 1992, or the first and last windows would hardly be drawn).
A block is drawn for all series at once, which keeps what they have in common. Where time is too
short for blocks, as with one window a series, the series are drawn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from kt_forecast.metrics.tracing import Estimate, estimate

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Totals = Mapping[str, Floats]

LEAST_BLOCKS = 2
"""Blocks of time that make an interval at all."""

FEW_BLOCKS = 10
"""Blocks of time under which an interval is said to rest on little."""

SAME_LEVEL = 1e-9
CELLS_AT_ONCE = 4_000_000
"""Numbers drawn at once: bounds the memory of the bootstrap."""

ROWS_AT_ONCE = 2_000_000
"""Rows whose seasonal differences are taken at once."""


def ends(level: float) -> tuple[float, float]:
    """Return the levels of the two quantiles between which an interval of ``level`` lies.

    The one place that says so: level .9 lies between the quantiles .05 and .95.
    """
    return round((1 - level) / 2, 12), round((1 + level) / 2, 12)


def intervals_in(quantiles: tuple[float, ...]) -> tuple[float, ...]:
    """Return the levels of the intervals whose two ends are among the quantiles, rising."""
    found = [
        round(1 - 2 * low, 12)
        for low in quantiles
        if low < 0.5 and place_of(1 - low, quantiles) is not None
    ]
    return tuple(sorted(found))


def place_of(level: float, quantiles: tuple[float, ...]) -> int | None:
    """Return which of the quantiles has a level; None where none has."""
    return next((i for i, q in enumerate(quantiles) if abs(q - level) < SAME_LEVEL), None)


def percent(level: float) -> str:
    """Return a level as utilsforecast's columns write it: ``90``."""
    return f"{round(100 * level, 6):g}"


@dataclass(frozen=True)
class Sums:
    """What a pass over windows leaves behind.

    Names of the sums: ``windows``; ``n`` values ahead; ``squared`` and ``absolute`` errors in
    standardised units; ``squared_original``, ``absolute_original`` and the values' own size
    ``size_original`` in their own unit; ``smape``; ``scaled``, absolute errors over the scale of
    their series, and ``n_scaled`` of them, where there are scales; ``pinball:<quantile>`` in
    standardised units and ``pinball_original``, the mean over the quantiles, in the values' own
    unit; ``covered:<level>`` and ``width:<level>``.

    Attributes:
        horizon: steps ahead.
        quantiles: levels of the predicted quantiles.
        levels: levels of the intervals.
        moment: tick of the first step ahead of each group of windows, rising.
        by_moment: sums over the windows of all series that begin at a moment.
        by_series: sums over all windows of a series.
        by_step: of those in standardised units, sums over all windows at a step ahead.
    """

    horizon: int
    quantiles: tuple[float, ...]
    levels: tuple[float, ...]
    moment: Int[np.ndarray, " moments"]
    by_moment: Mapping[str, Floats]
    by_series: Mapping[str, Floats]
    by_step: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def totals(self) -> Totals:
        """Sums over everything."""
        return {name: total.sum(keepdims=True) for name, total in self.by_moment.items()}


class Running:
    """Adds up the sums of windows, one after the other in their order.

    The order of the additions is that of the windows whatever they are handed over with, so that
    no batch size changes a digit.

    Args:
        names: of the sums.
        moments: number of moments.
        n_series: number of series.
    """

    def __init__(self, names: tuple[str, ...], moments: int, n_series: int) -> None:
        self.by_moment = {name: np.zeros(moments) for name in names}
        self.by_series = {name: np.zeros(n_series) for name in names}

    def add(
        self,
        moment: Int[np.ndarray, " windows"],
        series: Int[np.ndarray, " windows"],
        sums: Mapping[str, Floats],
    ) -> None:
        """Take the sums of windows: the place of each one's moment, and its series."""
        for name, values in sums.items():
            np.add.at(self.by_moment[name], moment, values)
            np.add.at(self.by_series[name], series, values)


def mse(total: Totals) -> Floats:
    """Return the mean squared error in standardised units.

    Formula: mean over windows, series and steps of (forecast - value) squared, values standardised
    by the training rows of their series. Range [0, infinity), lower is better; forecasting the
    training mean scores about 1 where nothing drifts.

    Misleads: a series whose spread changed after the training rows decides, and an outlier among
    the training rows makes all errors of its series look small.
    """
    return _ratio(total["squared"], total["n"])


def mae(total: Totals) -> Floats:
    """Return the mean absolute error in standardised units.

    Formula: mean of |forecast - value|. Range [0, infinity), lower is better.

    Misleads: as the squared error does; and the median of what may happen minimises it, which for
    a series of mostly zeros is the forecast that nothing happens.
    """
    return _ratio(total["absolute"], total["n"])


def rmse(total: Totals) -> Floats:
    """Return the root of the mean squared error in standardised units.

    Range [0, infinity), lower is better. Misleads: as the squared error does.
    """
    return np.sqrt(mse(total))


def mse_original(total: Totals) -> Floats:
    """Return the mean squared error in the values' own unit, squared.

    Range [0, infinity), lower is better. Misleads: the series of the largest numbers decides.
    """
    return _ratio(total["squared_original"], total["n"])


def mae_original(total: Totals) -> Floats:
    """Return the mean absolute error in the values' own unit.

    Range [0, infinity), lower is better. Misleads: the series of the largest numbers decides.
    """
    return _ratio(total["absolute_original"], total["n"])


def rmse_original(total: Totals) -> Floats:
    """Return the root of the mean squared error in the values' own unit.

    Range [0, infinity), lower is better. Misleads: the series of the largest numbers decides.
    """
    return np.sqrt(mse_original(total))


def mase(total: Totals) -> Floats:
    """Return the mean absolute scaled error.

    Formula: mean of |forecast - value| / scale, the scale of a series being its mean
    |value - value one season before| over the training rows. Range [0, infinity), lower is better;
    1 is how well repeating the last season did there, one step ahead of each row. It is the mean
    over series of their own where all have as many windows. Hyndman and Koehler 2006.

    Misleads: the scale is of one season ahead, so a long horizon exceeds 1 without being bad; a
    series that hardly moved over the training rows decides. Where nothing moved it has no scale and
    is left out.
    """
    return _ratio(total["scaled"], total["n_scaled"])


def smape(total: Totals) -> Floats:
    """Return the symmetric mean absolute percentage error, as utilsforecast defines it.

    Formula: mean of |forecast - value| / (|forecast| + |value|) in the values' own unit; 0 where
    both are 0. Range [0, 1], lower is better; the M competitions' is twice this, in percent.

    Misleads: near 0 any miss is the largest; and units without a true zero, as degrees Celsius.
    """
    return _ratio(total["smape"], total["n"])


def wql(total: Totals) -> Floats:
    """Return the weighted quantile loss.

    Formula: mean over the quantiles of 2 x sum of pinball loss / sum of |value|, in the values'
    own unit, all series together. Range [0, infinity), lower is better. Salinas et al. 2020,
    GluonTS's mean weighted quantile loss.

    Misleads: the series of the largest numbers decides, and other quantiles give other figures.
    """
    return _ratio(2 * total["pinball_original"], total["size_original"])


def crps(sums_of: Sums, total: Totals) -> Floats:
    """Return the continuous ranked probability score, approximated by the predicted quantiles.

    Formula: 2 x mean over the quantiles of the pinball loss, in standardised units; with evenly
    spaced quantiles it tends to the score itself (Gneiting and Ranjan 2011). Range [0, infinity),
    lower is better.

    Misleads: across sets of quantiles, since only the predicted ones are averaged.
    """
    pinballs = [total[_name("pinball", q)] for q in sums_of.quantiles]
    return _ratio(2 * np.mean(pinballs, axis=0), total["n"])


def metrics_of(sums: Sums) -> dict[str, Callable[[Totals], Floats]]:
    """Return every metric that these sums give, by name.

    ``pinball_<quantile>`` is the mean of max(q (value - forecast), (q - 1) (value - forecast));
    ``coverage_<level>`` the share of values inside the interval, ends included;
    ``width_<level>`` its mean width; all in standardised units.
    """
    found: dict[str, Callable[[Totals], Floats]] = dict(POINT_METRICS)
    if "scaled" not in sums.by_series:
        del found["mase"]
    if sums.quantiles:
        found["wql"] = wql
        found["crps"] = lambda total: crps(sums, total)
    for q in sums.quantiles:
        found[f"pinball_{q:g}"] = _mean_of(_name("pinball", q))
    for level in sums.levels:
        found[f"coverage_{percent(level)}"] = _mean_of(_name("covered", level))
        found[f"width_{percent(level)}"] = _mean_of(_name("width", level))
    return found


def step_metrics_of(sums: Sums) -> dict[str, Callable[[Totals], Floats]]:
    """Return the metrics that exist at a single step ahead: those in standardised units."""
    found = metrics_of(sums)
    standard = {"mse": mse, "mae": mae, "rmse": rmse}
    return standard | {k: v for k, v in found.items() if k not in POINT_METRICS and k != "wql"}


def score(sums: Sums, *, resamples: int = 500, seed: int = 0) -> dict[str, Estimate]:
    """Return every metric with its interval.

    Args:
        sums: what a pass over the windows left.
        resamples: how often blocks are drawn; 0 for no intervals.
        seed: of the draws.
    """
    drawn = _drawn(sums, resamples, seed)
    totals = sums.totals
    return {
        name: estimate(float(metric(totals)[0]), _sample(metric, drawn))
        for name, metric in metrics_of(sums).items()
    }


def compare(
    first: Sums, second: Sums, *, resamples: int = 500, seed: int = 0
) -> dict[str, Estimate]:
    """Return the metrics of ``first`` less those of ``second``, both on the same drawn blocks.

    What makes a stretch of time hard for both cancels. The ranked scores are left out where the
    two predict different quantiles.

    Raises:
        ValueError: they are sums over different windows.
    """
    if not _same_windows(first, second):
        raise ValueError("the sums are over different windows")
    drawn = _drawn(first, resamples, seed), _drawn(second, resamples, seed)
    ours, theirs = metrics_of(first), metrics_of(second)
    both = [name for name in ours if name in theirs]
    if first.quantiles != second.quantiles:
        both = [name for name in both if name not in {"crps", "wql"}]
    return {
        name: estimate(
            float(ours[name](first.totals)[0] - theirs[name](second.totals)[0]),
            _sample(ours[name], drawn[0]) - _sample(theirs[name], drawn[1]),
        )
        for name in both
    }


def samples(sums: Sums, name: str, *, resamples: int = 500, seed: int = 0) -> Floats:
    """Return a metric of each resample; those of the same windows and seed draw the same blocks."""
    return _sample(metrics_of(sums)[name], _drawn(sums, resamples, seed))


@dataclass(frozen=True)
class Blocks:
    """What the intervals draw.

    Attributes:
        unit: blocks of neighbouring moments for all series at once, or series, or nothing.
        length: moments of a block; 1 for series.
        count: blocks that fill up time, or series.
    """

    unit: Literal["time", "series", "none"]
    length: int
    count: int


def blocks_of(moment: Ints, horizon: int, n_series: int) -> Blocks:
    """Return what intervals draw for windows that begin at some moments.

    A block spans at least a horizon, as windows overlap up to there, and at least the cube root of
    the number of moments, as series have a memory of their own (Hall, Horowitz and Jing 1995).
    """
    ahead = np.searchsorted(moment, moment + horizon) - np.arange(len(moment))
    length = max(int(ahead.max(initial=1)), int(np.ceil(len(moment) ** (1 / 3))))
    count = len(moment) // length
    if count >= LEAST_BLOCKS:
        return Blocks("time", length, count)
    if n_series >= LEAST_BLOCKS:
        return Blocks("series", 1, n_series)
    return Blocks("none", 1, 1)


def seasonal_scale(
    values: Float[np.ndarray, " rows"],
    observed: npt.NDArray[np.bool_] | None,
    start: Ints,
    train_end: Ints,
    season: int,
) -> Floats:
    """Return the mean absolute seasonal difference of each series over its training rows.

    Args:
        values: of all series, one after another, in any unit: the scale has the same.
        observed: False where a value was missing.
        start: place of each series' first row, and the number of rows at the end.
        train_end: the row after the last training row of each series, counted within it.
        season: steps of the cycle.

    Returns:
        One scale a series; nan where no pair of training rows lies a season apart.
    """
    n_series = len(start) - 1
    total, pairs = np.zeros(n_series), np.zeros(n_series)
    low = 0
    while low < n_series:
        # Some series at a time: what is computed for each row would not fit for all at once.
        most = np.searchsorted(start, start[low] + ROWS_AT_ONCE, side="right") - 1
        high = max(low + 1, int(most))
        own = start[low : high + 1] - start[low]
        rows = slice(start[low], start[high])
        number = np.repeat(np.arange(high - low), np.diff(own))
        valid = np.arange(len(number)) - own[number] < train_end[low:high][number]
        if observed is not None:
            valid &= observed[rows]
        both = valid[season:] & valid[:-season] & (number[season:] == number[:-season])
        moved = np.abs(values[rows][season:].astype(np.float64) - values[rows][:-season])
        total[low:high] = np.bincount(number[season:][both], moved[both], minlength=high - low)
        pairs[low:high] = np.bincount(number[season:][both], minlength=high - low)
        low = high
    return _ratio(total, pairs)


def pinball_name(quantile: float) -> str:
    """Return the name of the sum of pinball losses at a quantile."""
    return _name("pinball", quantile)


def covered_name(level: float) -> str:
    """Return the name of the number of values inside an interval."""
    return _name("covered", level)


def width_name(level: float) -> str:
    """Return the name of the sum of an interval's widths."""
    return _name("width", level)


POINT_METRICS: dict[str, Callable[[Totals], Floats]] = {
    "mse": mse,
    "mae": mae,
    "rmse": rmse,
    "mse_original": mse_original,
    "mae_original": mae_original,
    "rmse_original": rmse_original,
    "mase": mase,
    "smape": smape,
}
"""What every forecast is scored by; those with quantiles by `metrics_of` too."""


def _name(kind: str, level: float) -> str:
    return f"{kind}:{level:g}"


def _mean_of(name: str) -> Callable[[Totals], Floats]:
    return lambda total: _ratio(total[name], total["n"])


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _sample(metric: Callable[[Totals], Floats], drawn: Totals) -> Floats:
    return metric(drawn) if drawn else np.zeros(0)


def _same_windows(first: Sums, second: Sums) -> bool:
    return (
        first.horizon == second.horizon
        and np.array_equal(first.moment, second.moment)
        and all(
            np.array_equal(getattr(first, by)[name], getattr(second, by)[name])
            for by in ("by_moment", "by_series")
            for name in ("windows", "n")
        )
    )


def _drawn(sums: Sums, resamples: int, seed: int) -> Totals:
    """Return the sums of each resample, by name; nothing where there is nothing to draw."""
    blocks = blocks_of(sums.moment, sums.horizon, len(sums.by_series["n"]))
    if blocks.unit == "none" or not resamples:
        return {}
    random = np.random.default_rng(seed)
    units = sums.by_moment if blocks.unit == "time" else sums.by_series
    table = np.stack(list(units.values()), axis=1)
    if blocks.unit == "time":
        drawn = _blocks_drawn(table, blocks.length, resamples, random)
    else:
        drawn = _rows_drawn(table, resamples, random)
    return dict(zip(units, drawn.T, strict=True))


def _blocks_drawn(
    table: Floats, length: int, resamples: int, random: np.random.Generator
) -> Floats:
    """Return the sums over as many moments as there are, drawn in blocks that run round."""
    moments = len(table)
    passed = np.zeros((moments + length + 1, table.shape[1]))
    np.cumsum(np.concatenate([table, table[:length]]), axis=0, out=passed[1:])
    whole, rest = divmod(moments, length)
    first = random.integers(moments, size=(resamples, whole + 1))
    found = np.zeros((resamples, table.shape[1]))
    for block in range(whole):
        found += passed[first[:, block] + length] - passed[first[:, block]]
    return found + passed[first[:, whole] + rest] - passed[first[:, whole]]


def _rows_drawn(table: Floats, resamples: int, random: np.random.Generator) -> Floats:
    """Return the sums over as many rows as there are, drawn one by one."""
    rows = len(table)
    found = np.empty((resamples, table.shape[1]))
    at_once = max(1, CELLS_AT_ONCE // rows)
    for low in range(0, resamples, at_once):
        n = min(at_once, resamples - low)
        drawn = random.integers(rows, size=(n, rows)) + rows * np.arange(n)[:, None]
        times = np.bincount(drawn.ravel(), minlength=n * rows).reshape(n, rows)
        found[low : low + n] = times @ table
    return found
