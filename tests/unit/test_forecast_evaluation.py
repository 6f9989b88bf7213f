"""Every window scored once, the same at any batch size, and nothing read after the origin."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from kt_forecast.errors import InputError
from kt_forecast.evaluation.conformal import Conformal
from kt_forecast.evaluation.forecasting import (
    Fitted,
    ForecastRules,
    backtest,
    compare,
    evaluate,
    every_window,
    rolling_cutoffs,
    scale_of,
    validation_scores,
)
from kt_forecast.evaluation.predicting import hidden
from kt_forecast.schema import N_VALUES, N_WINDOWS, STEP, UNIQUE_ID
from kt_forecast.sequences.series import Forecast
from kt_forecast.sequences.windows import Origins, gather
from tests.forecast_cases import LEVELS, Naive, seasonal, series_set

HORIZON = 7


def three(missing=False):
    columns = [seasonal(90, seed=1), 100 * seasonal(75, seed=2), seasonal(81, seed=3) - 5]
    observed = None
    if missing:
        random = np.random.default_rng(0)
        observed = [random.random(len(column)) > 0.15 for column in columns]
    low, high = np.array([60, 50, 55]), np.array([90, 75, 81])
    return series_set(columns, train=50, observed=observed, tick=[0, 5, 2]), low, high


def by_hand(series, chosen, predictor, scale=None):
    """Go through windows, series and steps one at a time, in each value's own unit and not."""
    rows = []
    for number in range(len(chosen)):
        context = predictor.context
        batch = gather(series, chosen, np.array([number]), context=context, horizon=HORIZON)
        forecast = predictor.predict(batch)
        for c in range(batch.series.shape[1]):
            which = int(batch.series[0, c])
            a, b = float(series.shift[which]), float(series.spread[which])
            for h in range(HORIZON):
                if batch.real is not None and not batch.real[0, c, context + h]:
                    continue
                y, p = float(batch.target[0, c, h]), float(forecast.point[0, c, h])
                row = {"series": which, "step": h, "y": y, "p": p, "Y": a + b * y, "P": a + b * p}
                if scale is not None:
                    row["scaled"] = abs(row["P"] - row["Y"]) / scale[which]
                for i, q in enumerate(forecast.levels):
                    value = float(forecast.quantiles[0, c, h, i])
                    row[f"q{q}"] = value
                    row[f"loss{q}"] = max(q * (y - value), (q - 1) * (y - value))
                    row[f"own{q}"] = b * row[f"loss{q}"]
                rows.append(row)
    return pl.DataFrame(rows)


def expected(rows):
    y, p, own, guess = (rows[name].to_numpy() for name in ("y", "p", "Y", "P"))
    error, own_error = np.abs(y - p), np.abs(own - guess)
    found = {
        "mse": (error**2).mean(),
        "mae": error.mean(),
        "rmse": np.sqrt((error**2).mean()),
        "mse_original": (own_error**2).mean(),
        "mae_original": own_error.mean(),
        "rmse_original": np.sqrt((own_error**2).mean()),
        "smape": (own_error / (np.abs(own) + np.abs(guess))).mean(),
        "mase": rows["scaled"].mean(),
        "crps": 2 * np.mean([rows[f"loss{q}"].mean() for q in LEVELS]),
        "wql": np.mean([2 * rows[f"own{q}"].sum() / np.abs(own).sum() for q in LEVELS]),
    }
    found |= {f"pinball_{q:g}": rows[f"loss{q}"].mean() for q in LEVELS}
    for level, below, above in (("80", 0.1, 0.9), ("90", 0.05, 0.95)):
        low, high = rows[f"q{below}"].to_numpy(), rows[f"q{above}"].to_numpy()
        found[f"coverage_{level}"] = ((low <= y) & (y <= high)).mean()
        found[f"width_{level}"] = (high - low).mean()
    return found


@pytest.mark.parametrize("missing", [False, True])
def test_every_metric_equals_a_plain_loop(missing):
    series, low, high = three(missing)
    chosen = every_window(series, low, high, horizon=HORIZON)
    scale = scale_of(series, np.array([50, 50, 50]), 12)
    predictor = Naive(HORIZON, levels=LEVELS, width=0.4)
    scores = evaluate(predictor, series, chosen, horizon=HORIZON, scale=scale, ids=["a", "b", "c"])
    rows = by_hand(series, chosen, predictor, scale)
    wanted = expected(rows)
    assert set(wanted) == set(scores.metrics)
    for name, value in wanted.items():
        assert scores.metrics[name].value == pytest.approx(value, rel=1e-6), name
    assert scores.n_values == len(rows)
    assert scores.n_windows == (high - low - HORIZON + 1).sum()
    assert scores.levels == (0.8, 0.9)
    for which, line in enumerate(scores.by_series.iter_rows(named=True)):
        own = expected(rows.filter(pl.col("series") == which))
        assert line[UNIQUE_ID] == "abc"[which]
        assert line[N_WINDOWS] == high[which] - low[which] - HORIZON + 1
        assert {k: line[k] for k in own} == pytest.approx(own, rel=1e-6)
    for h, line in enumerate(scores.by_horizon.iter_rows(named=True)):
        own = expected(rows.filter(pl.col("step") == h))
        assert line[STEP] == h + 1
        shared = [name for name in own if name in line]
        assert {"mse", "mae", "crps", "coverage_90", "width_90"} <= set(shared)
        assert {k: line[k] for k in shared} == pytest.approx({k: own[k] for k in shared}, rel=1e-6)
    assert scores.by_horizon[N_VALUES].sum() == len(rows)


def test_the_batch_size_changes_no_digit():
    series, low, high = three(missing=True)
    chosen = every_window(series, low, high, horizon=HORIZON)
    predictor = Naive(HORIZON, levels=LEVELS)
    found = [
        evaluate(
            predictor, series, chosen, horizon=HORIZON, rules=ForecastRules(windows_per_batch=size)
        )
        for size in (1, 32, 2048)
    ]
    for other in found[1:]:
        assert other.metrics == found[0].metrics
        assert other.by_series.equals(found[0].by_series)
        for name in found[0].by_horizon.columns:
            one, two = (some.by_horizon[name].to_numpy() for some in (found[0], other))
            np.testing.assert_allclose(one, two, rtol=1e-13)


def test_dropping_the_last_batch_is_seen(monkeypatch):
    from kt_forecast.evaluation import forecasting

    series, low, high = three()
    chosen = every_window(series, low, high, horizon=HORIZON)
    whole = forecasting.predicted

    def without_last(*args, **options):
        yield from list(whole(*args, **options))[:-1]

    monkeypatch.setattr(forecasting, "predicted", without_last)
    rules = ForecastRules(windows_per_batch=8)
    with pytest.raises(RuntimeError, match="twice or never"):
        evaluate(Naive(HORIZON), series, chosen, horizon=HORIZON, rules=rules)


def test_mixed_channels_score_as_series_apart():
    columns = [seasonal(90, seed=i) for i in range(4)]
    series = series_set(columns, train=60)
    low, high = np.full(4, 60), np.full(4, 90)
    predictor = Naive(HORIZON, levels=LEVELS)
    apart, mixed = (
        evaluate(
            predictor,
            series,
            every_window(series, low, high, horizon=HORIZON, mixing=mixing),
            horizon=HORIZON,
        )
        for mixing in (False, True)
    )
    assert mixed.n_windows == apart.n_windows == 4 * (30 - HORIZON + 1)
    for name, value in apart.metrics.items():
        assert mixed.metrics[name].value == pytest.approx(value.value, rel=1e-12)
        assert mixed.metrics[name].low == pytest.approx(value.low, rel=1e-9)
    assert [e.series for e in mixed.examples] == [e.series for e in apart.examples]
    for one, two in zip(mixed.examples, apart.examples, strict=True):
        np.testing.assert_array_equal(one.target, two.target)
        np.testing.assert_array_equal(one.quantiles, two.quantiles)


def test_windows_are_as_many_as_the_rows_allow():
    series, low, high = three()
    chosen = every_window(series, low, high, horizon=HORIZON)
    np.testing.assert_array_equal(chosen.count, high - low - HORIZON + 1)
    with pytest.raises(InputError, match="no series has the 40 rows"):
        every_window(series, low, high, horizon=40)


class Peeking(Naive):
    """Reads a share of the answer."""

    def predict(self, batch):
        return Forecast(super().predict(batch).point * 0.9 + 0.1 * batch.target)


def test_a_predictor_that_reads_the_answer_is_found_out():
    series, low, high = three()
    chosen = every_window(series, low, high, horizon=HORIZON)
    with pytest.raises(RuntimeError, match="reads what came after the origin"):
        evaluate(Peeking(HORIZON), series, chosen, horizon=HORIZON)
    assert series.values.isfinite().all()


def test_what_comes_after_the_origin_is_hidden():
    series, low, high = three(missing=True)
    series = replace(series, past=torch.ones(len(series.values), 2), known=series.values[:, None])
    chosen = every_window(series, low, high, horizon=HORIZON)
    numbers = np.arange(len(chosen))
    plain, batch = (gather(series, chosen, numbers, context=12, horizon=HORIZON) for _ in range(2))
    batch = hidden(batch)
    assert batch.target.isnan().all()
    assert batch.past[:, :, 12:].isnan().all()
    assert not batch.scored.any()
    for name in ("context", "real", "past", "known", "static"):
        assert torch.equal(getattr(batch.window, name), getattr(plain.window, name))
    whole = three()[0]
    batch = hidden(gather(whole, chosen, numbers, context=12, horizon=HORIZON))
    assert batch.target.isnan().all()


def test_a_value_that_is_zero_but_for_rounding_misses_nothing():
    """Counts of mostly zeros: standardised and back they are not exactly zero."""
    column = np.zeros(90)
    column[:60:7] = 1000.0
    series = series_set([column], train=60)
    chosen = every_window(series, np.array([60]), np.array([90]), horizon=HORIZON)

    class Nearly(Naive):
        def predict(self, batch):
            return Forecast(batch.window.context[..., -1:].repeat(1, 1, HORIZON) * (1 + 1e-7))

    scores = evaluate(Nearly(HORIZON), series, chosen, horizon=HORIZON)
    assert scores.metrics["smape"].value == 0
    assert scores.metrics["mae_original"].value < 1e-3


def test_nothing_to_score_is_said():
    series, low, high = three()
    none = Origins(low, np.zeros(3, dtype=np.int64))
    with pytest.raises(InputError, match="no window"):
        evaluate(Naive(HORIZON), series, none, horizon=HORIZON)
    chosen = every_window(series, low, high, horizon=HORIZON)
    rules = ForecastRules(levels=(0.99,))
    with pytest.raises(InputError, match="no 99 % interval"):
        evaluate(Naive(HORIZON, levels=LEVELS), series, chosen, horizon=HORIZON, rules=rules)
    with pytest.raises(RuntimeError, match="shape"):
        evaluate(Naive(HORIZON + 1), series, chosen, horizon=HORIZON)


def test_a_constant_series_is_left_out_of_mase_and_said():
    columns = [seasonal(90), np.full(90, 3.0)]
    series = series_set(columns, train=60)
    low, high = np.full(2, 60), np.full(2, 90)
    scale = scale_of(series, low, 12)
    scores = evaluate(
        Naive(HORIZON),
        series,
        every_window(series, low, high, horizon=HORIZON),
        horizon=HORIZON,
        scale=scale,
    )
    assert scale[1] == 0
    assert np.isnan(scores.by_series["mase"][1])
    assert scores.metrics["mase"].value == pytest.approx(scores.by_series["mase"][0])
    assert any(note.startswith("mase leaves out 1 of 2 series") for note in scores.notes)


def test_examples_are_of_the_best_median_and_worst_series_in_their_own_unit():
    noises = (0.1, 3.0, 0.5)
    columns = [10 + 5 * seasonal(90, noise=noise, seed=i) for i, noise in enumerate(noises)]
    series = series_set(columns, train=60)
    low, high = np.full(3, 60), np.full(3, 90)
    chosen = every_window(series, low, high, horizon=HORIZON)
    scores = evaluate(Naive(HORIZON, levels=LEVELS), series, chosen, horizon=HORIZON)
    errors = scores.by_series["mse"].to_numpy()
    found = {example.name: example for example in scores.examples}
    assert found["best"].series == errors.argmin()
    assert found["worst"].series == errors.argmax()
    assert set(found) == {"best", "median", "worst"}
    for example in scores.examples:
        own = columns[example.series]
        np.testing.assert_allclose(
            example.target, own[example.row : example.row + HORIZON], rtol=1e-5
        )
        np.testing.assert_allclose(example.context, own[example.row - 12 : example.row], rtol=1e-5)
        np.testing.assert_allclose(example.point, example.context[:HORIZON], rtol=1e-5)
        assert example.quantiles.shape == (HORIZON, len(LEVELS))
    alone = series_set(columns[:1], train=60)
    chosen = every_window(alone, low[:1], high[:1], horizon=HORIZON)
    shown = evaluate(Naive(HORIZON), alone, chosen, horizon=HORIZON).examples
    assert [example.name for example in shown] == ["first", "middle", "last"]
    assert shown[0].row == 60
    assert shown[-1].row == 90 - HORIZON


def test_difference_of_two_is_paired():
    series, low, high = three()
    chosen = every_window(series, low, high, horizon=HORIZON)
    first = evaluate(Naive(HORIZON), series, chosen, horizon=HORIZON)
    second = evaluate(Naive(HORIZON, season=11), series, chosen, horizon=HORIZON)
    gap = compare(first, second)
    for name, estimate in gap.items():
        difference = first.metrics[name].value - second.metrics[name].value
        assert estimate.value == pytest.approx(difference)
    same = compare(first, first)["mse"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    fewer = evaluate(
        Naive(HORIZON),
        series,
        every_window(series, low + 1, high, horizon=HORIZON),
        horizon=HORIZON,
    )
    with pytest.raises(InputError, match="different windows"):
        compare(first, fewer)


def test_validation_scores_are_those_of_the_evaluation():
    series, low, high = three(missing=True)
    chosen = every_window(series, low, high, horizon=HORIZON)
    predictor = Naive(HORIZON, levels=LEVELS)
    quick = validation_scores(predictor, series, chosen, horizon=HORIZON)
    scores = evaluate(predictor, series, chosen, horizon=HORIZON)
    assert quick["mse"] == pytest.approx(scores.metrics["mse"].value)
    assert quick["mae"] == pytest.approx(scores.metrics["mae"].value)
    assert 2 * quick["pinball"] == pytest.approx(scores.metrics["crps"].value)
    assert set(validation_scores(Naive(HORIZON), series, chosen, horizon=HORIZON)) == {"mse", "mae"}


class Module(nn.Module):
    """A module whose dropout must be off, and whose mode must come back."""

    def __init__(self):
        super().__init__()
        self.context = 12
        self.dropout = nn.Dropout(0.5)

    def predict(self, batch):
        return Forecast(self.dropout(batch.window.context[..., :HORIZON]))


def test_a_module_is_evaluated_without_dropout_and_goes_on_training():
    series, low, high = three()
    chosen = every_window(series, low, high, horizon=HORIZON)
    module = Module().train()
    scores = evaluate(module, series, chosen, horizon=HORIZON)
    assert module.training
    same = evaluate(Naive(HORIZON), series, chosen, horizon=HORIZON)
    assert scores.metrics["mse"].value == same.metrics["mse"].value


def counted(columns):
    """Return what scales and calibrates by the rows before a cutoff, and the cutoffs it got."""
    calls = []

    def fit(cutoff):
        calls.append(cutoff.copy())
        series = series_set(columns, train=int(cutoff.min()))
        chosen = Origins(cutoff - 20, np.full(len(cutoff), 20 - HORIZON + 1))
        predictor = Naive(HORIZON)
        conformal = Conformal.fit(predictor, series, chosen, horizon=HORIZON, levels=(0.9,))
        return Fitted(predictor, series, conformal)

    return fit, calls


@pytest.mark.parametrize(("refit", "fits"), [(False, 1), (True, 4), (3, 2)])
def test_backtest_fits_as_often_as_asked_and_sees_nothing_of_the_test(refit, fits):
    columns = [seasonal(90, seed=i) for i in range(3)]
    cutoffs = rolling_cutoffs(np.full(3, 90), horizon=HORIZON, n_windows=4)
    np.testing.assert_array_equal(cutoffs[:, 0], 90 - HORIZON * np.arange(4, 0, -1))
    fit, calls = counted(columns)
    found = backtest(fit, cutoffs, horizon=HORIZON, refit=refit)
    assert len(calls) == fits
    assert len(np.unique(found.fit)) == fits
    assert (found.fit <= found.window).all()
    for line in range(len(found.window)):
        own = columns[found.series[line]]
        row = found.cutoff[line]
        np.testing.assert_allclose(found.target[line], own[row : row + HORIZON], rtol=1e-4)
        np.testing.assert_allclose(found.point[line], own[row - 12 : row - 5], rtol=1e-4)
    for window in range(4):
        moved = [column.copy() for column in columns]
        cutoff = cutoffs[window, 0]
        for column in moved:
            column[cutoff:] += 100
        again = backtest(counted(moved)[0], cutoffs, horizon=HORIZON, refit=refit)
        before = found.window <= window
        np.testing.assert_array_equal(again.point[before], found.point[before])
        np.testing.assert_array_equal(again.quantiles[before], found.quantiles[before])
        assert not np.array_equal(again.target[before], found.target[before])


def test_a_scaler_that_saw_the_test_rows_would_be_caught():
    """The same check on what it must find: statistics of all rows, as neuralforecast takes them."""
    columns = [seasonal(90)]
    cutoffs = rolling_cutoffs(np.array([90]), horizon=HORIZON, n_windows=2)

    class Mean(Naive):
        def predict(self, batch):
            return Forecast(torch.zeros_like(super().predict(batch).point))

    def fit(columns):
        return lambda cutoff: Fitted(Mean(HORIZON), series_set(columns))

    moved = [columns[0].copy()]
    moved[0][cutoffs[0, 0] :] += 100
    first, second = (backtest(fit(some), cutoffs, horizon=HORIZON) for some in (columns, moved))
    assert not np.array_equal(first.point, second.point)


def test_backtest_without_refit_is_an_evaluation_of_the_same_origins():
    columns = [seasonal(90, seed=i) for i in range(3)]
    cutoffs = rolling_cutoffs(np.full(3, 90), horizon=HORIZON, n_windows=5, step=3)
    series = series_set(columns, train=60)
    fitted = Fitted(Naive(HORIZON, levels=LEVELS), series)
    scale = scale_of(series, np.full(3, 60), 12)
    for mixing in (False, True):
        found = backtest(lambda _: fitted, cutoffs, horizon=HORIZON, mixing=mixing, scale=scale)
        chosen = Origins(
            cutoffs[0, :1] if mixing else cutoffs[0],
            np.full(1 if mixing else 3, 5),
            stride=3,
            mixing=mixing,
        )
        same = evaluate(fitted.predictor, series, chosen, horizon=HORIZON, scale=scale)
        for name, estimate in same.metrics.items():
            assert found.scores.metrics[name].value == pytest.approx(estimate.value, rel=1e-12)
        assert found.scores.protocol == "rolling"
        assert found.scores.stride == 3


def test_series_too_short_for_the_windows_are_named():
    with pytest.raises(InputError, match="series number 1 has 20 rows"):
        rolling_cutoffs(np.array([90, 20]), horizon=HORIZON, n_windows=3)
    with pytest.raises(InputError, match="mixing = false"):
        backtest(lambda _: None, np.array([[5, 6]]), horizon=HORIZON, mixing=True)
