"""What is wrong with the scale of series: constant ones, and stand-ins for missing values."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kt_forecast.data.place import count

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]

_BLOCK_ROWS = 1 << 20
_NINES = tuple(sign * nines for nines in (99.0, 999.0, 9999.0, 99999.0) for sign in (-1.0, 1.0))
_MOST_SHARE = 0.1
"""A value that is not all nines is a stand-in only where it takes the place of few."""

_LEAST_REPEATS = 3
"""How often a value that is not all nines must be there to be a stand-in."""

_MOST_LOOKED_AT = 1000
_MOST_NAMED = 5


@dataclass(frozen=True)
class _StandIn:
    series: int
    value: float
    times: int
    with_them: float
    without: float


def scale_notes(y: Floats, start: Ints, ids: tuple[str, ...]) -> list[str]:
    """Return warnings of values that spoil the scale, and a note of constant series."""
    low, high, mean, spread = _extremes(y, start)
    notes = []
    constant = np.flatnonzero(low == high)
    if len(constant):
        names = ", ".join(repr(ids[series]) for series in constant[:_MOST_NAMED])
        more = ", ..." if len(constant) > _MOST_NAMED else ""
        notes.append(
            f"{count(len(constant), 'series is', 'series are')} constant ({names}{more}); a"
            " constant series is divided by one, not by its spread"
        )
    # A few values far from the rest lie many spreads from the mean, however large they are.
    far = np.maximum(mean - low, high - mean) > 2 * spread
    nines = np.isin(low, _NINES) | np.isin(high, _NINES)
    suspects = np.flatnonzero((far | nines) & (high > low))[:_MOST_LOOKED_AT]
    found = [
        one
        for series in suspects
        for one in _stand_ins(y[start[series] : start[series + 1]], int(series))
    ]
    notes += [
        f"warning: series {ids[one.series]!r} holds {one.value:g} {count(one.times, 'time')}, far"
        " outside its other values, as a stand-in for missing ones would be; its standard"
        f" deviation is {one.with_them:.4g} with and {one.without:.4g} without it"
        for one in found[:_MOST_NAMED]
    ]
    if len(found) > _MOST_NAMED:
        others = len({one.series for one in found[_MOST_NAMED:]})
        notes.append(f"warning: so do {count(others, 'more series', 'more series')}")
    return notes


def _extremes(y: Floats, start: Ints) -> tuple[Floats, Floats, Floats, Floats]:
    """Return least, greatest, mean and standard deviation of each series, some at a time."""
    n_series = len(start) - 1
    low, high, mean, spread = (np.empty(n_series) for _ in range(4))
    begin = 0
    while begin < n_series:
        end = int(np.searchsorted(start, start[begin] + _BLOCK_ROWS, side="right")) - 1
        end = min(max(end, begin + 1), n_series)
        own = slice(begin, end)
        values = y[start[begin] : start[end]].astype(np.float64)
        places = start[begin:end] - start[begin]
        low[own] = np.fmin.reduceat(values, places)
        high[own] = np.fmax.reduceat(values, places)
        there = ~np.isnan(values)
        size = np.add.reduceat(there.astype(np.float64), places)
        values[~there] = 0.0
        mean[own] = np.add.reduceat(values, places) / size
        values -= np.repeat(mean[own], np.diff(start[begin : end + 1]))
        values[~there] = 0.0
        spread[own] = np.sqrt(np.add.reduceat(values * values, places) / size)
        begin = end
    return low, high, mean, spread


def _stand_ins(values: Floats, series: int) -> list[_StandIn]:
    """Return the extremes of a series that lie farther from the rest than the rest is wide."""
    values = values[~np.isnan(values)].astype(np.float64)
    found = []
    for value in {float(values.min()), float(values.max())}:
        is_it = values == value
        rest, times = values[~is_it], int(is_it.sum())
        nines = value in _NINES
        if not len(rest) or not (nines or times <= _MOST_SHARE * len(values)):
            continue
        width = float(rest.max() - rest.min())
        distance = min(abs(value - float(rest.min())), abs(value - float(rest.max())))
        outlying = width > 0 and distance > width
        if outlying and (nines or times >= _LEAST_REPEATS):
            found.append(_StandIn(series, value, times, float(values.std()), float(rest.std())))
    return sorted(found, key=lambda one: one.value)
