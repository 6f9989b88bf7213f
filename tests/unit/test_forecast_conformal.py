"""Intervals hold as often as they say, never cross, and level 90 is the quantiles .05 and .95."""

import gzip
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load, save

from kt_forecast.errors import InputError
from kt_forecast.evaluation import conformal as module
from kt_forecast.evaluation.conformal import Conformal, band
from kt_forecast.evaluation.forecasting import ForecastRules, evaluate, every_window
from kt_forecast.metrics.forecasting import ends
from kt_forecast.sequences.series import Forecast
from kt_forecast.sequences.windows import Origins
from tests.forecast_cases import Naive, seasonal, series_set

HORIZON = 4
LEVELS = (0.8, 0.9, 0.95)


class Zero:
    """Forecasts the training mean, with quantiles of a normal of some width when asked."""

    context = 1

    def __init__(self, horizon=HORIZON, levels=(), width=1.0):
        self.horizon, self.levels, self.width = horizon, levels, width

    def predict(self, batch):
        point = batch.window.context.new_zeros(*batch.window.context.shape[:2], self.horizon)
        if not self.levels:
            return Forecast(point)
        normal = torch.distributions.Normal(0.0, self.width)
        offset = normal.icdf(torch.tensor(self.levels))
        return Forecast(point, point[..., None] + offset, self.levels)


QUANTILES = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)


def apart(rows, first, last):
    """Return windows that share no row: their errors are exchangeable."""
    count = (last - first) // HORIZON
    return Origins(np.full(rows, first), np.full(rows, count), stride=HORIZON)


def noise(seed, n_series=6, rows=2000):
    """Return series of noise that differ in size and have heavy tails."""
    random = np.random.default_rng(seed)
    sizes = 2.0 ** np.arange(n_series)
    return [size * random.standard_t(4, size=rows) for size in sizes]


@pytest.mark.parametrize("levels", [(), QUANTILES])
def test_coverage_is_within_the_luck_of_the_draw_at_every_level_and_step(levels):
    """Over drawn data sets, calibrated on half the windows and counted on the others."""
    trials, n = 20, 0
    hits = dict.fromkeys(LEVELS, 0)
    for seed in range(trials):
        series = series_set(noise(seed, rows=404), train=404)
        predictor = Zero(levels=levels, width=0.6)
        found = Conformal.fit(predictor, series, apart(6, 4, 204), horizon=HORIZON)
        scores = evaluate(
            predictor,
            series,
            apart(6, 204, 404),
            horizon=HORIZON,
            rules=ForecastRules(resamples=0, levels=LEVELS),
            conformal=found,
        )
        for level in LEVELS:
            hits[level] = hits[level] + scores.by_horizon[f"coverage_{100 * level:g}"].to_numpy()
        n += scores.by_horizon["n_values"][0]
    for level in LEVELS:
        # A calibration set of as many values as are counted adds as much luck of its own.
        spread = 4 * np.sqrt(2 * level * (1 - level) / n)
        assert np.abs(hits[level] / trials - level).max() < spread, (level, hits[level] / trials)


def ten_errors():
    """Return one series whose ten forecasts of one step are off by known amounts."""
    values = np.concatenate([[0.0], np.random.default_rng(0).permutation(np.arange(1.0, 11.0))])
    series = series_set([values])
    valid = Origins(np.array([1]), np.array([10]))
    return series, valid, series.values[1:].abs().double().numpy()


def test_rank_is_that_of_one_score_more():
    """Of ten errors, level 80 ends at the ninth and 90 at the last, not at eighth and ninth."""
    series, valid, errors = ten_errors()
    predictor = Zero(horizon=1)
    found = Conformal.fit(predictor, series, valid, horizon=1, levels=(0.8, 0.9))
    scaled = found.correction[:, 0].numpy() * found.scale.numpy()
    np.testing.assert_allclose(scaled, np.sort(errors)[[8, 9]], rtol=1e-6)
    assert not found.notes
    found = Conformal.fit(predictor, series, valid, horizon=1, levels=(0.99,))
    assert "too few to calibrate the 99 % interval" in found.notes[0]
    np.testing.assert_allclose(found.correction[0] * found.scale, errors.max(), rtol=1e-6)


def test_the_scale_of_a_window_leaves_the_window_out(monkeypatch):
    monkeypatch.setattr(module, "LEAST_WINDOWS", 10)
    series, valid, errors = ten_errors()
    found = Conformal.fit(Zero(horizon=1), series, valid, horizon=1, levels=(0.8, 0.9))
    shares = np.sort([e / np.delete(errors, i).mean() for i, e in enumerate(errors)])
    np.testing.assert_allclose(found.correction[:, 0], shares[[8, 9]], rtol=1e-6)
    np.testing.assert_allclose(found.scale[0], errors.mean(), rtol=1e-6)


def test_one_definition_of_a_level():
    """Level 90 and quantiles .05 and .95 are the same numbers, before and after calibration."""
    series = series_set(noise(0))
    predictor = Zero(levels=QUANTILES, width=0.4)
    found = Conformal.fit(predictor, series, apart(6, 4, 1000), horizon=HORIZON)
    raw = Forecast(
        torch.zeros(1, 1, HORIZON), torch.arange(9.0).expand(1, 1, HORIZON, 9), QUANTILES
    )
    after = found.apply(raw, torch.tensor([[2]]))
    for forecast in (raw, after):
        for level in (0.5, *LEVELS):
            low, high = band(forecast, level)
            for end, of in zip((low, high), ends(level), strict=True):
                torch.testing.assert_close(end, forecast.quantiles[..., forecast.levels.index(of)])
    assert after.levels == QUANTILES
    with pytest.raises(InputError, match=r"no 99 % interval.*accepted are levels 50, 80, 90, 95"):
        band(raw, 0.99)


@pytest.mark.parametrize("levels", [(), QUANTILES, (0.1, 0.5, 0.9)])
def test_intervals_nest_and_hold_the_point(levels):
    """Far too wide quantiles are pulled in by different amounts, and still do not cross."""
    series = series_set(noise(1))
    predictor = Zero(levels=levels, width=30.0)
    found = Conformal.fit(predictor, series, apart(6, 4, 404), horizon=HORIZON)
    random = torch.Generator().manual_seed(0)
    point = torch.randn(50, 1, HORIZON, generator=random)
    quantiles = None
    if levels:
        quantiles = torch.randn(50, 1, HORIZON, len(levels), generator=random).sort(-1).values
    number = torch.randint(6, (50, 1), generator=random)
    after = found.apply(Forecast(point, quantiles, levels), number)
    assert (after.quantiles.diff(dim=-1) >= 0).all()
    assert list(after.levels) == sorted(after.levels)
    for level in found.levels:
        low, high = band(after, level)
        assert (low <= point).all()
        assert (point <= high).all()


def test_harder_series_get_wider_intervals_where_there_are_windows_enough():
    columns = [seasonal(800, noise=0.1), seasonal(800, noise=2.0, seed=1)]
    series = series_set(columns, train=400)
    predictor = Naive(HORIZON)
    many = Origins(np.full(2, 400), np.full(2, 300))
    found = Conformal.fit(predictor, series, many, horizon=HORIZON)
    assert found.scale[1] > 2 * found.scale[0]
    few = Origins(np.full(2, 400), np.full(2, module.LEAST_WINDOWS - 1))
    assert len(set(Conformal.fit(predictor, series, few, horizon=HORIZON).scale.tolist())) == 1
    forecast = Forecast(torch.zeros(2, 1, HORIZON))
    low, high = band(found.apply(forecast, torch.tensor([[0], [1]])), 0.9)
    torch.testing.assert_close(low, -high)
    assert (high[1] > 2 * high[0]).all()
    unknown = band(found.apply(forecast), 0.9)[1]
    torch.testing.assert_close(unknown[0], unknown[1])


def test_missing_values_teach_nothing():
    columns = noise(2, n_series=2, rows=400)
    seen = [np.random.default_rng(i).random(400) > 0.3 for i in range(2)]
    valid = Origins(np.full(2, 4), np.full(2, 300))
    found = Conformal.fit(Zero(), series_set(columns, observed=seen), valid, horizon=HORIZON)
    whole = series_set(columns, observed=seen)
    changed = whole.values.where(whole.observed, 1e6)
    other = series_set(columns, observed=seen)
    object.__setattr__(other, "values", changed)
    again = Conformal.fit(Zero(), other, valid, horizon=HORIZON)
    torch.testing.assert_close(again.correction, found.correction)
    assert found.count.max() < 600
    nothing = series_set(columns, observed=[np.zeros(400, dtype=bool)] * 2)
    with pytest.raises(InputError, match="no validation window has a value 1 steps ahead"):
        Conformal.fit(Zero(), nothing, valid, horizon=HORIZON)
    none = Origins(np.full(2, 4), np.zeros(2, dtype=np.int64))
    with pytest.raises(InputError, match="no validation window to calibrate"):
        Conformal.fit(Zero(), whole, none, horizon=HORIZON)
    with pytest.raises(InputError, match="level 90 was asked for"):
        Conformal.fit(Zero(), whole, valid, horizon=HORIZON, levels=(90.0,))


def test_thinned_scores_give_nearly_the_same_intervals(monkeypatch):
    series = series_set(noise(3))
    valid = Origins(np.full(6, 4), np.full(6, 1500))
    whole = Conformal.fit(Zero(), series, valid, horizon=HORIZON)
    monkeypatch.setattr(module, "SCORES_PER_STEP", 2000)
    thin = Conformal.fit(Zero(), series, valid, horizon=HORIZON)
    assert (thin.count <= 2000).all()
    assert (thin.count > 1900).all()
    torch.testing.assert_close(thin.scale, whole.scale)
    torch.testing.assert_close(thin.correction, whole.correction, rtol=0.1, atol=0)


def test_what_is_learned_survives_a_file():
    series = series_set(noise(4))
    found = Conformal.fit(Zero(), series, apart(6, 4, 404), horizon=HORIZON)
    back = Conformal.restore(load(save(found.arrays())))
    assert back.levels == found.levels
    forecast = Forecast(torch.zeros(1, 1, HORIZON))
    number = torch.tensor([[3]])
    one, two = found.apply(forecast, number), back.apply(forecast, number)
    torch.testing.assert_close(one.quantiles, two.quantiles, rtol=0, atol=0)
    with pytest.raises(InputError, match="calibrated for 4 steps ahead, not 5"):
        back.apply(Forecast(torch.zeros(1, 1, 5)), number)


def test_a_nan_forecast_is_not_calibrated_on():
    class Nan(Zero):
        def predict(self, batch):
            return Forecast(super().predict(batch).point * torch.nan)

    with pytest.raises(RuntimeError, match="not finite"):
        Conformal.fit(Nan(), series_set(noise(5)), apart(6, 4, 404), horizon=HORIZON)


DATA = Path(os.environ.get("KT_FORECAST_DATA", Path(__file__).parents[3] / "shared" / "data"))
ETTH1 = DATA / "series" / "etth1" / "ETTh1.csv.gz"


@pytest.mark.skipif(not ETTH1.exists(), reason="needs the data set ETTh1")
def test_coverage_on_real_data(capsys):
    """Seasonal naive on ETTh1, whose validation months are harder to forecast than its test."""
    with gzip.open(ETTH1) as file:
        table = pl.read_csv(file)
    columns = [table[name].to_numpy() for name in table.columns[1:]]
    series = series_set([column[:14_400] for column in columns], train=8640)
    predictor = Naive(96, season=24)
    low, middle, high = (np.full(7, border) for border in (8640, 11_520, 14_400))
    valid = every_window(series, low, middle, horizon=96)
    test = every_window(series, middle, high, horizon=96)
    found = Conformal.fit(predictor, series, valid, horizon=96)
    scores = evaluate(predictor, series, test, horizon=96, conformal=found)
    assert scores.n_windows == 7 * 2785
    with capsys.disabled():
        print(f"\nETTh1, 96 ahead: mse {scores.metrics['mse'].value:.3f}")
        print(scores.by_horizon.select("step", "^coverage.*$")[[0, 11, 23, 47, 95]])
    for level in LEVELS:
        coverage = scores.metrics[f"coverage_{100 * level:g}"].value
        assert level - 0.05 < coverage < level + 0.6 * (1 - level)
