"""Fitted forecasters: blind to what they predict, restored as saved, right where right is known."""

import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from kt_forecast import baselines
from kt_forecast.baselines import Baseline, FittedForecaster
from kt_forecast.baselines.ridge import Ridge, RidgeConfig
from kt_forecast.errors import InputError
from kt_forecast.sequences.series import SeriesSet, WindowShape
from kt_forecast.sequences.windows import Origins, gather, in_order, origins
from kt_forecast.tracer.systems import plan

FORECASTERS = [
    name
    for name in baselines.names()
    if isinstance(one := baselines.load(name), Baseline) and one.task == "forecasting"
]
LOCAL = ("ets", "theta")
RULES = [name for name in FORECASTERS if name not in {"ridge", *LOCAL}]
needs_library = pytest.mark.skipif(
    find_spec("statsforecast") is None, reason="the extra baselines (statsforecast) is not here"
)
RUNNABLE = [
    pytest.param(name, marks=[needs_library] if name in LOCAL else []) for name in FORECASTERS
]
ROWS, SEASON, HORIZON, CONTEXT = 120, 6, 8, 20


def series_set(
    values: np.ndarray, known: np.ndarray | None = None, observed: np.ndarray | None = None
) -> SeriesSet:
    """Return the rows of ``values`` as series."""
    n_series, length = values.shape
    flat = torch.from_numpy(values.reshape(-1)).float()
    known = np.zeros((n_series, length, 0)) if known is None else known
    return SeriesSet(
        values=flat,
        observed=None if observed is None else torch.from_numpy(observed.reshape(-1)),
        start=torch.arange(n_series + 1) * length,
        past=torch.zeros(len(flat), 0),
        known=torch.from_numpy(known).float().flatten(0, 1),
        clock=torch.zeros(length, 0),
        tick=torch.zeros(n_series, dtype=torch.int64),
        static=torch.zeros(n_series, 0),
        shift=torch.zeros(n_series),
        spread=torch.ones(n_series),
    )


def wave(n_series: int = 3, noise: float = 0.3, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    cycle = np.sin(2 * np.pi * np.arange(ROWS) / SEASON)
    return cycle + noise * random.normal(size=(n_series, ROWS)).cumsum(1)


def span(series: SeriesSet, low: int, high: int, **choices: int) -> Origins:
    each = np.ones(series.n_series, dtype=np.int64)
    return origins(series, low * each, high * each, horizon=HORIZON, **choices)


def shape(**changes: int) -> WindowShape:
    return WindowShape(**{"context": CONTEXT, "horizon": HORIZON, "season": SEASON, **changes})


def fitted(name: str, series: SeriesSet, **settings: object) -> FittedForecaster:
    baseline = baselines.load(name)
    if name == "ridge":
        settings = {"context": CONTEXT, **settings}
    train, valid = span(series, 0, 70, least=CONTEXT), span(series, 70, 90)
    made = baseline.build(baseline.config.parse(settings, name))
    return made.fit(series, train, valid, shape())


def windows(series: SeriesSet, model: FittedForecaster, low: int = 90, high: int = ROWS):
    chosen = span(series, low, high)
    numbers = np.arange(len(chosen))
    return gather(series, chosen, numbers, context=model.context, horizon=HORIZON)


def holed() -> SeriesSet:
    """Return series of which some values are missing, each replaced by the one before."""
    values, observed = wave(), np.random.default_rng(1).random((3, ROWS)) > 0.03
    for step in range(1, ROWS):
        values[:, step] = np.where(observed[:, step], values[:, step], values[:, step - 1])
    return series_set(values, observed=observed)


def test_the_folder_is_the_registry():
    simple = {"last_value", "window_mean", "seasonal_naive", "drift"}
    assert simple | {"ridge", *LOCAL} == set(FORECASTERS)
    for name in FORECASTERS:
        baseline = baselines.load(name)
        assert isinstance(baseline.build(baseline.config()), FittedForecaster)


def test_a_forecaster_does_not_trace_students():
    with pytest.raises(InputError, match="ridge forecasts series and cannot trace students"):
        plan("ridge")


@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("series", [series_set(wave()), holed()], ids=["whole", "holed"])
def test_what_comes_after_the_origin_changes_nothing(name, series):
    model = fitted(name, series)
    batch = windows(series, model, low=2)
    found = model.predict(batch).point
    assert found.shape == batch.target.shape
    assert torch.isfinite(found).all()
    values = batch.values.clone()
    values[..., batch.n_context :] = torch.nan
    assert torch.equal(model.predict(replace(batch, values=values)).point, found)
    values = batch.values.clone()
    values[..., batch.n_context - 1] += 1.0
    assert not torch.equal(model.predict(replace(batch, values=values)).point, found)


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_window_alone_gives_what_it_gives_among_others(name):
    series = series_set(wave())
    model = fitted(name, series)
    chosen = span(series, 100, ROWS)
    sizes = {"context": model.context, "horizon": HORIZON}
    together = model.predict(gather(series, chosen, np.arange(len(chosen)), **sizes)).point
    for number in range(0, len(chosen), 7):
        alone = model.predict(gather(series, chosen, np.array([number]), **sizes)).point
        torch.testing.assert_close(alone, together[number : number + 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", RUNNABLE)
def test_restored_as_saved(name, tmp_path):
    series = series_set(wave())
    model = fitted(name, series)
    save_file(model.arrays(), tmp_path / "arrays.safetensors")
    baseline = baselines.load(name)
    again = baseline.build(baseline.config()).restore(load_file(tmp_path / "arrays.safetensors"))
    assert again.context == model.context
    batch = windows(series, model)
    assert torch.equal(again.predict(batch).point, model.predict(batch).point)


def test_last_value_and_window_mean_say_what_their_names_say():
    series = series_set(wave())
    for name, of in (("last_value", lambda x: x[..., -1:]), ("window_mean", lambda x: x.mean(-1))):
        model = fitted(name, series)
        batch = windows(series, model)
        wanted = of(batch.window.context).reshape(-1, 1, 1).expand(batch.target.shape)
        torch.testing.assert_close(model.predict(batch).point, wanted)


def test_window_mean_leaves_out_what_is_missing():
    series = series_set(np.arange(ROWS, dtype=float)[None])
    model = fitted("window_mean", series, context=4)
    batch = windows(series, model, high=ROWS - 10)
    real = torch.ones_like(batch.values, dtype=torch.bool)
    real[..., :2] = False
    got = model.predict(replace(batch, real=real)).point
    wanted = batch.window.context[..., 2:].mean(-1, keepdim=True).expand(got.shape)
    torch.testing.assert_close(got, wanted)
    nothing = model.predict(replace(batch, real=torch.zeros_like(real))).point
    torch.testing.assert_close(nothing, batch.window.context[..., -1:].expand(got.shape))


def test_drift_continues_a_line_also_where_the_series_begins_within_the_window():
    line = np.arange(ROWS) * 0.5 + 3.0
    series = series_set(line[None])
    model = fitted("drift", series)
    for low in (2, 5, CONTEXT, 90):
        batch = windows(series, model, low=low, high=low + HORIZON + 3)
        torch.testing.assert_close(model.predict(batch).point, batch.target)
    first = windows(series, model, low=1, high=1 + HORIZON)
    assert torch.equal(model.predict(first).point, torch.full((1, 1, HORIZON), 3.0))


def test_seasonal_naive_is_exact_on_what_repeats_itself():
    cycle = np.random.default_rng(0).normal(size=(4, SEASON))
    series = series_set(np.tile(cycle, ROWS // SEASON))
    model = fitted("seasonal_naive", series)
    assert model.context == SEASON
    batch = windows(series, model)
    assert torch.equal(model.predict(batch).point, batch.target)
    wider = fitted("seasonal_naive", series, context=SEASON + 3)
    batch = windows(series, wider)
    assert torch.equal(wider.predict(batch).point, batch.target)


def test_seasonal_naive_repeats_the_last_value_where_a_season_is_not_there():
    cycle = np.arange(SEASON, dtype=float)
    series = series_set(np.tile(cycle, ROWS // SEASON)[None])
    model = fitted("seasonal_naive", series, context=SEASON - 2)
    batch = windows(series, model, high=90 + HORIZON)
    last = float(batch.window.context[0, 0, -1])
    wanted = torch.tensor([last, last, 2.0, 3.0, 4.0, 5.0, last, last])
    assert torch.equal(model.predict(batch).point[0, 0], wanted)
    padded = fitted("seasonal_naive", series)
    begins = windows(series, padded, low=2, high=2 + HORIZON)
    assert torch.equal(
        padded.predict(begins).point[0, 0], torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    )


def solved_by_hand(
    series: SeriesSet, train: Origins, penalty: float, *, level: int | None = -1
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and intercept of ridge regression, from all windows written out."""
    batch = gather(series, train, np.arange(len(train)), context=CONTEXT, horizon=HORIZON)
    x, y = batch.window.context.flatten(0, 1).double(), batch.target.flatten(0, 1).double()
    if level is not None:
        x, y = x - batch.window.context[:, 0, level, None], y - x[:, level, None]
    x, y = x.numpy(), y.numpy()
    x_mean, y_mean = x.mean(0), y.mean(0)
    gram = (x - x_mean).T @ (x - x_mean) + penalty * np.eye(CONTEXT)
    weight = np.linalg.solve(gram, (x - x_mean).T @ (y - y_mean))
    return weight, y_mean - x_mean @ weight


@pytest.mark.parametrize("penalty", [0.5, 30.0])
@pytest.mark.parametrize("per_batch", [1 << 8, 1 << 22])
def test_ridge_is_the_solution_of_the_normal_equations(penalty, per_batch, monkeypatch):
    monkeypatch.setattr("kt_forecast.baselines.ridge.NUMBERS_PER_BATCH", per_batch)
    series = series_set(wave())
    model = fitted("ridge", series, penalty=penalty)
    weight, intercept = solved_by_hand(series, span(series, 0, 70, least=CONTEXT), penalty)
    np.testing.assert_allclose(model.solution.weight, weight, atol=1e-8)
    np.testing.assert_allclose(model.solution.intercept, intercept, atol=1e-8)
    absolute = fitted("ridge", series, penalty=penalty, normalisation="none")
    train = span(series, 0, 70, least=CONTEXT)
    weight, _ = solved_by_hand(series, train, penalty, level=None)
    np.testing.assert_allclose(absolute.solution.weight, weight, atol=1e-8)


def test_ridge_without_a_penalty_finds_a_linear_recursion():
    random = np.random.default_rng(0)
    values = random.normal(size=(5, ROWS))
    for step in range(2, ROWS):
        values[:, step] = 1.8 * np.cos(0.3) * values[:, step - 1] - 0.81 * values[:, step - 2]
        values[:, step] += 0.4
    model = fitted("ridge", series_set(values), penalty=0.0, normalisation="none")
    batch = windows(series_set(values), model)
    torch.testing.assert_close(model.predict(batch).point, batch.target, atol=1e-3, rtol=0)


def test_the_validation_windows_choose_penalty_context_and_normalisation():
    series = series_set(wave(noise=1.0))
    choices = {"penalty": (0.1, 10.0, 1e3), "context": (8, 20), "normalisation": ("last", "none")}
    model = fitted("ridge", series, **choices)
    valid, errors = span(series, 70, 90), {}
    for penalty in choices["penalty"]:
        for context in choices["context"]:
            for normalisation in choices["normalisation"]:
                one = fitted(
                    "ridge", series, penalty=penalty, context=context, normalisation=normalisation
                )
                batch = gather(
                    series, valid, np.arange(len(valid)), context=context, horizon=HORIZON
                )
                error = (one.predict(batch).point - batch.target).square().mean().item()
                assert one.validation_mse == pytest.approx(error, rel=1e-5)
                errors[penalty, context, normalisation] = error
    best = min(errors, key=errors.__getitem__)
    assert (model.solution.penalty, model.context, model.normalisation) == best
    assert model.validation_mse == pytest.approx(errors[best], rel=1e-5)


def test_ridge_without_validation_windows_takes_the_strongest_penalty():
    series = series_set(wave())
    train = span(series, 0, 70)
    for valid in (None, span(series, 70, 71)):
        model = Ridge(RidgeConfig(context=(12, 6), penalty=(5.0, 90.0, 7.0)))
        model.fit(series, train, valid, shape())
        assert (model.context, model.solution.penalty) == (12, 90.0)


def test_windows_that_are_not_whole_teach_ridge_nothing():
    values, observed = wave(), np.ones((3, ROWS), dtype=bool)
    observed[1, 30] = False
    spoiled = values.copy()
    spoiled[1, 30] = 1e6
    model = fitted("ridge", series_set(spoiled, observed=observed), penalty=1.0)
    chosen = span(series_set(values), 0, 70)
    batch = gather(series_set(values), chosen, np.arange(len(chosen)), context=20, horizon=HORIZON)
    first = torch.from_numpy(chosen.at(np.arange(len(chosen)))[1])
    touched = (batch.series[:, 0] == 1) & (first - CONTEXT <= 30) & (first + HORIZON > 30)
    whole = (first >= CONTEXT) & ~touched
    x = batch.window.context[whole, 0].double().numpy()
    y = batch.target[whole, 0].double().numpy() - x[:, -1:]
    x = x - x[:, -1:]
    gram = (x - x.mean(0)).T @ (x - x.mean(0)) + np.eye(CONTEXT)
    weight = np.linalg.solve(gram, (x - x.mean(0)).T @ (y - y.mean(0)))
    np.testing.assert_allclose(model.solution.weight, weight, atol=1e-6)


def test_ridge_learns_from_short_series_too():
    short = series_set(wave()[:, :30])
    train = span(short, 0, 20)
    assert int(train.at(np.arange(len(train)))[1].max()) < CONTEXT
    model = Ridge(RidgeConfig(context=CONTEXT)).fit(short, train, None, shape())
    assert model.solution.weight.abs().max() > 0
    with pytest.raises(InputError, match="no window with 8 steps ahead lies within the training"):
        Ridge(RidgeConfig()).fit(short, span(short, 0, 7), None, shape())


def test_ridge_reads_covariates_that_are_known_in_advance():
    random = np.random.default_rng(0)
    known = random.normal(size=(2, ROWS, 2))
    values = known @ np.array([0.7, -0.2]) + 1.0
    series = series_set(values, known)
    settings = {"context": 4, "penalty": 1e-3, "normalisation": "none"}
    with_them = fitted("ridge", series, **settings)
    batch = windows(series, with_them)
    torch.testing.assert_close(with_them.predict(batch).point, batch.target, atol=1e-2, rtol=0)
    without = fitted("ridge", series, **settings, covariates=False)
    error = (without.predict(batch).point - batch.target).square().mean()
    assert error > 0.3
    # The calendar's columns come after those of the table and are not read.
    ticking = replace(series, clock=torch.randn(ROWS, 3))
    same = fitted("ridge", ticking, **settings)
    assert torch.equal(same.solution.weight, with_them.solution.weight)
    got = same.predict(windows(ticking, same)).point
    torch.testing.assert_close(got, with_them.predict(batch).point)


def test_ridge_can_learn_from_fewer_windows():
    series = series_set(wave())
    train = span(series, 0, 70, least=CONTEXT)
    every = replace(train, count=-(-train.count // 4), stride=4)
    weight, _ = solved_by_hand(series, every, 1.0)
    assert len(every) == 33
    for fewer in ({"stride": 4}, {"windows": 35}):
        model = fitted("ridge", series, penalty=1.0, **fewer)
        np.testing.assert_allclose(model.solution.weight, weight, atol=1e-8)


def test_ridge_learns_the_same_from_windows_of_all_series_at_once():
    series = series_set(wave())
    alone = fitted("ridge", series)
    train, valid = span(series, 0, 70, least=CONTEXT, mixing=True), span(series, 70, 90)
    mixed = Ridge(RidgeConfig(context=CONTEXT)).fit(series, train, valid, shape(channels=3))
    np.testing.assert_allclose(mixed.solution.weight, alone.solution.weight, atol=1e-9)
    (batch,) = in_order(
        series, span(series, 90, ROWS, mixing=True), context=CONTEXT, horizon=HORIZON
    )
    torch.testing.assert_close(
        mixed.predict(batch).point.transpose(0, 1).flatten(0, 1),
        alone.predict(windows(series, alone)).point[:, 0],
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("name", LOCAL)
def test_without_the_library_a_sentence_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "statsforecast", None)
    baseline = baselines.load(name)
    series = series_set(wave())
    with pytest.raises(InputError, match=r'pip install "kt-forecast\[baselines\]"'):
        baseline.build(baseline.config()).fit(series, span(series, 0, 70), None, shape())


@needs_library
@pytest.mark.parametrize("name", LOCAL)
def test_ets_and_theta_find_season_and_trend(name):
    time = np.arange(ROWS)
    noise = 0.02 * np.random.default_rng(0).normal(size=ROWS)
    values = 0.05 * time + np.sin(2 * np.pi * time / SEASON) + noise
    series = series_set(values[None])
    model = fitted(name, series, context=60)
    batch = windows(series, model, high=90 + HORIZON)
    assert (model.predict(batch).point - batch.target).abs().max() < 0.3


@needs_library
@pytest.mark.parametrize("name", LOCAL)
def test_a_constant_or_very_short_series_has_its_last_value_repeated(name):
    series = series_set(np.full((1, ROWS), 2.5))
    model = fitted(name, series)
    batch = windows(series, model, low=2, high=2 + HORIZON)
    assert torch.equal(model.predict(batch).point, torch.full((1, 1, HORIZON), 2.5))
