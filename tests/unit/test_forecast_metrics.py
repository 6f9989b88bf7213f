"""Metrics of forecasts against their formulas, and intervals against the luck of the draw."""

import numpy as np
import pytest
from scipy import stats

from kt_forecast.metrics import forecasting as metrics
from kt_forecast.metrics.forecasting import Running, Sums, blocks_of, seasonal_scale


def sums_of(error, *, horizon, series=None):
    """Return the sums of one error a moment (or a series, at one moment)."""
    n = len(error)
    at = np.arange(n) if series is None else np.zeros(n, dtype=np.int64)
    series = np.zeros(n, dtype=np.int64) if series is None else series
    columns = {
        "windows": np.ones(n),
        "n": np.ones(n),
        "squared": error**2,
        "absolute": np.abs(error),
        "squared_original": error**2,
        "absolute_original": np.abs(error),
        "smape": np.zeros(n),
    }
    running = Running(tuple(columns), int(at.max()) + 1, int(series.max()) + 1)
    running.add(at, series, columns)
    moment = np.arange(len(running.by_moment["n"]))
    return Sums(horizon, (), (), moment, running.by_moment, running.by_series)


def test_levels_and_quantiles_are_one_thing():
    assert metrics.ends(0.9) == (0.05, 0.95)
    assert metrics.ends(0.8) == (0.1, 0.9)
    quantiles = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)
    assert metrics.intervals_in(quantiles) == (0.5, 0.8, 0.9, 0.95)
    assert metrics.intervals_in((0.1, 0.5, 0.8)) == ()
    for level in metrics.intervals_in(quantiles):
        assert set(metrics.ends(level)) <= set(quantiles)
    assert metrics.percent(0.9) == "90"
    assert metrics.percent(0.975) == "97.5"


@pytest.mark.parametrize("at_once", [1, 7, 10**6])
def test_seasonal_scale_by_hand(at_once, monkeypatch):
    monkeypatch.setattr(metrics, "ROWS_AT_ONCE", at_once)
    first = np.array([1.0, 2.0, 4.0, 8.0, 9.0, 100.0])
    second = np.array([5.0, 5.0, 5.0, 5.0])
    third = np.array([1.0])
    values = np.concatenate([first, second, third])
    start = np.array([0, 6, 10, 11])
    ends = np.array([5, 4, 1])
    found = seasonal_scale(values, None, start, ends, 2)
    assert found[0] == pytest.approx(np.mean([abs(4 - 1), abs(8 - 2), abs(9 - 4)]))
    assert found[1] == 0
    assert np.isnan(found[2])
    observed = np.ones(11, dtype=bool)
    observed[1] = False
    assert seasonal_scale(values, observed, start, ends, 2)[0] == pytest.approx((3 + 5) / 2)
    moved = values.copy()
    moved[5] = -1e9
    assert seasonal_scale(moved, None, start, ends, 2)[0] == found[0]


def test_blocks_span_the_horizon_and_fall_back_to_series():
    every_row = np.arange(1000)
    assert blocks_of(every_row, 96, 7) == metrics.Blocks("time", 96, 10)
    assert blocks_of(every_row, 1, 7).length == 10
    a_day_apart = 24 * np.arange(100)
    assert blocks_of(a_day_apart, 96, 7).length == 5
    assert blocks_of(a_day_apart, 240, 7).length == 10
    assert blocks_of(np.arange(3), 96, 500) == metrics.Blocks("series", 1, 500)
    assert blocks_of(np.arange(3), 96, 1).unit == "none"


@pytest.mark.parametrize("length", [1, 3, 5, 12])
def test_drawn_blocks_are_neighbours_that_run_round(length):
    random = np.random.default_rng(4)
    table = random.normal(size=(12, 2))
    drawn = metrics._blocks_drawn(table, length, 40, np.random.default_rng(0))
    again = np.random.default_rng(0).integers(12, size=(40, 12 // length + 1))
    for resample, first in enumerate(again):
        places = np.concatenate([(f + np.arange(length)) % 12 for f in first])[:12]
        np.testing.assert_allclose(drawn[resample], table[places].sum(0), atol=1e-12)


def test_interval_covers_the_truth_where_windows_overlap():
    """Errors of overlapping windows move together; single draws would be far too sure."""
    horizon, n, trials = 10, 600, 150
    covered, alone = 0, 0
    for seed in range(trials):
        random = np.random.default_rng(seed)
        noise = random.normal(size=n + horizon - 1)
        shared = np.convolve(noise, np.ones(horizon) / np.sqrt(horizon), "valid")
        error = np.sqrt(np.maximum(2 + shared, 0))
        truth = 2 * stats.norm.cdf(2) + stats.norm.pdf(2)
        e = metrics.score(sums_of(error, horizon=2 * horizon), resamples=200, seed=seed)["mse"]
        covered += e.low <= truth <= e.high
        single = error**2
        spread = 1.96 * single.std() / np.sqrt(n)
        alone += abs(single.mean() - truth) <= spread
    low, high = stats.binom.interval(0.999, trials, 0.92)
    assert low <= covered <= high
    assert alone < 0.75 * trials


def test_interval_over_series_where_there_is_one_window_each():
    random = np.random.default_rng(0)
    error = random.normal(size=400)
    sums = sums_of(error, horizon=12, series=np.arange(400))
    e = metrics.score(sums, resamples=1000)["mse"]
    spread = (error**2).std() / np.sqrt(400)
    assert e.high - e.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert e.low < e.value < e.high


def test_paired_difference_is_narrower_and_seeded():
    random = np.random.default_rng(0)
    hard = np.repeat(random.gamma(2.0, size=40), 20)
    first = sums_of(hard + 0.1 + 0.01 * random.normal(size=800), horizon=20)
    second = sums_of(hard + 0.01 * random.normal(size=800), horizon=20)
    gap = metrics.compare(first, second)["mae"]
    own = metrics.score(first)["mae"]
    assert gap.value == pytest.approx(0.1, abs=0.01)
    assert gap.low > 0
    assert gap.high - gap.low < 0.1 * (own.high - own.low)
    assert metrics.score(first, seed=1) == metrics.score(first, seed=1)
    assert metrics.score(first, seed=1) != metrics.score(first, seed=2)
    assert np.isnan(metrics.score(first, resamples=0)["mae"].low)
    with pytest.raises(ValueError, match="different windows"):
        metrics.compare(first, sums_of(hard[:700], horizon=20))


def test_sums_do_not_depend_on_how_they_are_handed_over():
    random = np.random.default_rng(0)
    moment, series = random.integers(5, size=1000), random.integers(3, size=1000)
    values = random.normal(size=1000) * 10.0 ** random.integers(-8, 8, size=1000)
    whole = Running(("n",), 5, 3)
    whole.add(moment, series, {"n": values})
    parts = Running(("n",), 5, 3)
    for low in range(0, 1000, 7):
        some = slice(low, low + 7)
        parts.add(moment[some], series[some], {"n": values[some]})
    np.testing.assert_array_equal(whole.by_moment["n"], parts.by_moment["n"])
    np.testing.assert_array_equal(whole.by_series["n"], parts.by_series["n"])


def test_ranked_score_tends_to_the_closed_form():
    """With many even quantiles it is the score of the normal distribution (Gneiting 2005)."""
    levels = tuple(((np.arange(400) + 0.5) / 400).tolist())
    y = 0.7
    quantiles = stats.norm.ppf(levels)
    loss = [max(q * (y - v), (q - 1) * (y - v)) for q, v in zip(levels, quantiles, strict=True)]
    total = {metrics.pinball_name(q): np.array([v]) for q, v in zip(levels, loss, strict=True)}
    total["n"] = np.ones(1)
    sums = Sums(1, levels, (), np.arange(1), total, total)
    exact = y * (2 * stats.norm.cdf(y) - 1) + 2 * stats.norm.pdf(y) - 1 / np.sqrt(np.pi)
    assert metrics.crps(sums, total)[0] == pytest.approx(exact, rel=2e-3)
