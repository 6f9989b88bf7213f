import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import kt_forecast
from kt_forecast.data.series.frequency import future_stamps
from kt_forecast.data.series.load import load as load_series
from kt_forecast.data.series.splits import ByLast, ByProtocol, split
from kt_forecast.errors import InputError
from kt_forecast.forecaster import Forecaster, load
from kt_forecast.forecaster.fitting import MODEL_FILE, fit_plan, valid_origins
from kt_forecast.forecaster.systems import plan
from kt_forecast.sequences.windows import gather
from kt_forecast.tracer import KnowledgeTracer

H = 6
TINY = {
    "context": 24,
    "settings": {"width": 16, "heads": 2},
    "forecasting": {"patch": 6, "windows_per_epoch": 512, "windows_per_batch": 64},
    "training": {"epochs": 2, "learning_rate": 3e-3},
    "season": 12,
}


def series(n=120, seed=0, known=None):
    random = np.random.default_rng(seed)
    y = 20 + 5 * np.sin(2 * np.pi * np.arange(n) / 12) + random.normal(size=n)
    return y if known is None else y + 6 * known


def table(sizes=(120, 120, 120), *, covariates=False, start="2024-01-01"):
    parts = []
    for i, n in enumerate(sizes):
        known = (np.random.default_rng(100 + i).random(n) < 0.3).astype(float)
        seen = np.random.default_rng(200 + i).normal(size=n)
        frame = {
            "unique_id": [f"s{i}"] * n,
            "ds": np.datetime64(start, "us") + np.arange(n) * np.timedelta64(1, "h"),
            "y": (10 ** (i % 3)) * series(n, i, known if covariates else None),
        }
        if covariates:
            frame |= {"sale": known, "seen": seen, "kind": ["a" if i % 2 else "b"] * n}
        parts.append(pl.DataFrame(frame))
    return pl.concat(parts)


def ahead(frame, value=0.0, horizon=H):
    """Rows of the steps ahead, in which there is a sale or none."""
    last = frame.group_by("unique_id", maintain_order=True).agg(pl.col("ds").max())
    steps = pl.DataFrame({"step": np.arange(1, horizon + 1)})
    hours = pl.duration(hours=pl.col("step"))
    return last.join(steps, how="cross").select(
        "unique_id", (pl.col("ds") + hours).alias("ds"), pl.lit(value).alias("sale")
    )


@pytest.fixture(scope="module")
def frame():
    return table()


@pytest.fixture(scope="module")
def gpt(frame):
    return Forecaster("gpt", H, **TINY).fit(frame)


@pytest.fixture(scope="module")
def sold():
    return table(covariates=True)


@pytest.fixture(scope="module")
def told(sold):
    covariates = {"past": ["seen"], "future": ["sale"], "static": ["kind"]}
    return Forecaster("gpt", H, **TINY, **covariates).fit(sold)


def test_parameters_follow_scikit_learn():
    forecaster = Forecaster("gpt", 24, context=48, seed=3)
    twin = clone(forecaster)
    assert twin is not forecaster
    assert twin.get_params() == forecaster.get_params()
    assert twin.set_params(seed=4).seed == 4
    with pytest.raises(ValueError, match="sed"):
        twin.set_params(sed=4)


def test_the_sample_goes_from_end_to_end():
    forecaster = Forecaster(
        "nlinear", 24, context=96, training={"epochs": 1}, forecasting={"windows_per_epoch": 256}
    ).fit("series_sample")
    found = forecaster.predict()
    assert found.columns == [
        "unique_id",
        "ds",
        "nlinear",
        "nlinear-lo-90",
        "nlinear-lo-80",
        "nlinear-hi-80",
        "nlinear-hi-90",
    ]
    assert found.height == 24 * forecaster.table_.n_series
    assert found.select(pl.all().is_not_null().all()).row(0) == (True,) * found.width
    known = load_series("series_sample")
    assert found["ds"][0] == future_stamps(known, 0, 1)[0]


def test_the_kind_of_table_that_comes_in_goes_out(gpt, frame):
    found = gpt.predict(frame)
    pandas = gpt.predict(frame.to_pandas())
    assert isinstance(pandas, pd.DataFrame)
    assert isinstance(found, pl.DataFrame)
    assert pandas.columns.tolist() == found.columns
    assert pandas["ds"].dtype.kind == "M"
    assert pl.from_pandas(pandas).equals(found.with_columns(pl.col("ds").cast(pl.Datetime("us"))))
    assert gpt.predict().equals(found)
    assert gpt.predict(frame.lazy()).equals(found)
    own = Forecaster("seasonal_naive", H, season=12).fit(frame.to_pandas())
    assert isinstance(own.predict(), pd.DataFrame)


def test_ids_that_are_numbers_stay_numbers(frame):
    numbered = frame.with_columns(pl.col("unique_id").str.slice(1).cast(pl.Int32))
    naive = Forecaster("seasonal_naive", H, season=12).fit(numbered)
    assert naive.predict()["unique_id"].dtype == pl.Int32
    assert naive.predict(numbered)["unique_id"].dtype == pl.Int32
    assert naive.predict(numbered.to_pandas())["unique_id"].dtype.kind == "i"


def test_a_wide_table_gives_what_the_long_one_does(frame):
    wide = frame.pivot("unique_id", index="ds", values="y")
    one = Forecaster("ridge", H, context=24, season=12).fit(frame).predict()
    other = Forecaster("ridge", H, context=24, season=12).fit(wide).predict()
    assert one.equals(other)


def test_covariates_known_in_advance_matter(told, sold):
    none, sale = (told.predict(futr_df=ahead(sold, value)) for value in (0.0, 1.0))
    assert not np.allclose(none["gpt"], sale["gpt"], rtol=1e-3)
    # Without rows of its own, the table's rows after its last value say it.
    after = ahead(sold, 1.0).with_columns(
        pl.lit(None, dtype=pl.Float64).alias("y"),
        pl.lit(None, dtype=pl.Float64).alias("seen"),
    )
    after = after.join(sold.select("unique_id", "kind").unique(), on="unique_id")
    longer = pl.concat([sold, after.select(sold.columns)])
    assert told.predict(longer.sort("unique_id", "ds"))["gpt"].to_list() == sale["gpt"].to_list()
    shared = ahead(sold.filter(pl.col("unique_id") == "s0"), 1.0).drop("unique_id")
    assert told.predict(futr_df=shared).equals(sale)


def test_what_is_read_of_a_covariate_ends_at_the_origin(told, sold):
    future = ahead(sold)
    cut = sold.filter(pl.col("ds") < pl.col("ds").max() - pl.duration(hours=H - 1))
    before = ahead(cut)
    found = told.predict(cut, futr_df=before)
    late = pl.col("ds") > cut["ds"].max()
    moved = sold.with_columns(
        pl.when(late).then(pl.col("seen") + 50.0).otherwise(pl.col("seen")).alias("seen"),
        pl.when(late).then(None).otherwise(pl.col("y")).alias("y"),
    )
    assert told.predict(moved, futr_df=before).equals(found)
    early = sold.with_columns(pl.col("seen") + 50.0)
    assert not told.predict(early, futr_df=future).equals(told.predict(futr_df=future))


def test_a_fact_matters_and_one_table_of_facts_is_enough(sold):
    bare = sold.drop("kind", "sale", "seen")
    facts = sold.select("unique_id", "kind").unique(maintain_order=True)
    forecaster = Forecaster("gpt", H, **TINY).fit(bare, static_df=facts)
    found = forecaster.predict(bare, static_df=facts)
    assert forecaster.predict().equals(found)
    other = facts.with_columns(pl.lit("a").alias("kind"))
    assert not forecaster.predict(bare, static_df=other).equals(found)
    stranger = facts.with_columns(pl.lit("c").alias("kind"))
    forecaster.predict(bare, static_df=stranger)
    assert "facts that no training series had are left out: kind=c" in forecaster.notes_
    some = facts.filter(pl.col("unique_id") == "s1")
    one = forecaster.predict(bare.filter(pl.col("unique_id") == "s1"), static_df=some)
    assert np.allclose(one["gpt"], found.filter(pl.col("unique_id") == "s1")["gpt"], rtol=1e-5)


def test_new_series_are_measured_by_their_own_values(gpt, frame):
    new = frame.filter(pl.col("unique_id") == "s0").with_columns(
        pl.lit("new").alias("unique_id"), pl.col("y") * 1000.0
    )
    both = gpt.predict(pl.concat([frame, new]))
    assert "1 of 4 series were not trained on" in gpt.notes_[0]
    assert both.head(3 * H).equals(gpt.predict(frame)) or np.allclose(
        both.head(3 * H)["gpt"], gpt.predict(frame)["gpt"], rtol=1e-5
    )
    point = both.tail(H)["gpt"]
    assert point.is_between(5_000, 40_000).all()
    assert (both.tail(H)["gpt-lo-90"] < point).all()
    alone = gpt.predict(new.with_columns(pl.lit("s9").alias("unique_id")))
    assert np.allclose(alone["gpt"], point, rtol=1e-5)


def test_a_new_series_far_from_all_others_is_forecast_where_it_is(frame):
    ridge = Forecaster("ridge", H, context=24, settings={"normalisation": "none"}).fit(frame)
    new = frame.head(120).with_columns(pl.lit("new").alias("unique_id"), pl.col("y") + 1e6)
    assert ridge.predict(new)["ridge"].is_between(1e6 + 5, 1e6 + 35).all()


def test_some_series_in_another_order_get_what_they_get_among_all(frame):
    # With windows enough, the intervals of each series have a width of its own.
    ridge = Forecaster("ridge", H, context=24).fit(frame, val_size=50)
    assert len(set(ridge.fitted_.conformal.scale.tolist())) == 3
    every = ridge.predict(frame)
    turned = pl.concat([frame.filter(pl.col("unique_id") == name) for name in ("s2", "s0")])
    some = ridge.predict(turned)
    assert some["unique_id"].unique(maintain_order=True).to_list() == ["s2", "s0"]
    both = some.join(every, on=["unique_id", "ds"], how="left", suffix="_every")
    for name in ("ridge", "ridge-lo-90", "ridge-hi-80"):
        assert np.allclose(both[name], both[f"{name}_every"], rtol=1e-5)


def test_a_series_shorter_than_the_context_is_padded(gpt, frame):
    short = frame.group_by("unique_id", maintain_order=True).tail(3)
    found = gpt.predict(short)
    assert found.height == 3 * H
    assert found["gpt"].is_finite().all()
    assert "3 of 3 series are shorter than the context of 24 steps" in gpt.notes_[-1]
    assert gpt.predict(frame.group_by("unique_id").tail(1))["gpt"].is_finite().all()


def test_short_series_train_beside_long_ones():
    mixed = table((120, 120, 20, 10))
    forecaster = Forecaster("gpt", H, **TINY).fit(mixed)
    assert "2 of 4 series are too short to validate too" in forecaster.notes_
    assert "2 of 4 series have no whole training window" in forecaster.notes_[-1]
    assert forecaster.predict().height == 4 * H


def test_a_level_and_its_quantiles_agree(gpt):
    by_level = gpt.predict(level=90)
    by_quantile = gpt.predict(quantiles=[0.05, 0.5, 0.95])
    assert by_quantile.columns == [
        "unique_id",
        "ds",
        "gpt",
        "gpt-ql0.05",
        "gpt-ql0.5",
        "gpt-ql0.95",
    ]
    assert (by_level["gpt-lo-90"] == by_quantile["gpt-ql0.05"]).all()
    assert (by_level["gpt-hi-90"] == by_quantile["gpt-ql0.95"]).all()
    narrow = gpt.predict(level=[80])
    assert (by_level["gpt-lo-90"] <= narrow["gpt-lo-80"]).all()
    assert (narrow["gpt-lo-80"] <= narrow["gpt"]).all()
    assert gpt.predict(level=[]).columns == ["unique_id", "ds", "gpt"]


@pytest.mark.parametrize("output", ["quantile", "student_t"])
def test_heads_with_quantiles_are_calibrated_too(frame, output):
    tiny = TINY | {"forecasting": TINY["forecasting"] | {"output": output}}
    forecaster = Forecaster("gpt", H, **tiny).fit(frame)
    assert set(forecaster.epochs_[0].metrics) == {"mse", "mae", "pinball"}
    found = forecaster.predict(level=[50, 80, 90])
    columns = [f"gpt-{end}" for end in ("lo-90", "lo-80", "lo-50", "hi-50", "hi-80", "hi-90")]
    ends = found.select(columns).to_numpy()
    assert (np.diff(ends, axis=1) >= 0).all()


def test_a_model_comes_back_the_same_in_a_fresh_process(told, sold, tmp_path):
    told.save(tmp_path / "model")
    asked, future = tmp_path / "asked.parquet", tmp_path / "future.parquet"
    sold.write_parquet(asked)
    ahead(sold, 1.0).write_parquet(future)
    code = (
        "import sys, kt_forecast\n"
        "model, asked, future, out = sys.argv[1:]\n"
        "found = kt_forecast.load(model, device='cpu').predict(asked, futr_df=future)\n"
        "found.write_parquet(out)\n"
    )
    out = tmp_path / "out.parquet"
    paths = [str(path) for path in (tmp_path / "model", asked, future, out)]
    subprocess.run([sys.executable, "-c", code, *paths], check=True)
    assert pl.read_parquet(out).equals(told.predict(sold, futr_df=ahead(sold, 1.0)))
    again = load(tmp_path / "model", device="cpu")
    assert again.get_params()["future"] == ("sale",)
    assert again.get_params()["horizon"] == H
    assert again.epochs_ == told.epochs_
    assert [path.name for path in (tmp_path / "model").iterdir()] == [MODEL_FILE]


@pytest.mark.parametrize("system", ["ridge", "seasonal_naive", "nlinear"])
def test_every_kind_of_system_comes_back(system, frame, tmp_path):
    training = {"training": {"epochs": 1}} if system == "nlinear" else {}
    forecaster = Forecaster(system, H, context=24, season=12, **training).fit(frame)
    forecaster.save(tmp_path)
    assert load(tmp_path).predict(frame).equals(forecaster.predict(frame))
    assert forecaster.fitted_.context == 24


def test_either_kind_of_folder_is_opened(gpt, tmp_path):
    gpt.save(tmp_path / "series")
    KnowledgeTracer("item_mean").fit("sample").save(tmp_path / "students")
    assert isinstance(kt_forecast.load(tmp_path / "series"), Forecaster)
    assert isinstance(kt_forecast.load(tmp_path / "students"), KnowledgeTracer)
    with pytest.raises(InputError, match="holds no"):
        kt_forecast.load(tmp_path)
    with pytest.raises(InputError, match="keeps no series"):
        kt_forecast.load(tmp_path / "series").predict()


def test_a_backtest_has_the_rows_of_a_cross_validation(frame):
    naive = Forecaster("seasonal_naive", H, season=12)
    found = naive.backtest(frame, n_windows=3, step_size=2)
    assert found.columns[:5] == ["unique_id", "ds", "cutoff", "y", "seasonal_naive"]
    assert found.height == 3 * 3 * H
    y = found.join(frame, on=["unique_id", "ds"], how="left", suffix="_there")
    assert np.allclose(y["y"], y["y_there"])
    assert (found["ds"] > found["cutoff"]).all()
    first = found.head(H)
    assert (first["ds"][0] - first["cutoff"][0]).total_seconds() == 3600
    own = frame.filter(pl.col("unique_id") == "s0")
    season = own.filter(pl.col("ds") <= first["cutoff"][0])["y"].tail(12)
    assert np.allclose(first["seasonal_naive"], season.head(H), rtol=1e-4)
    assert not hasattr(naive, "fitted_")
    assert isinstance(naive.backtest(frame.to_pandas()), pd.DataFrame)


@pytest.mark.parametrize("refit", [False, True, 2])
@pytest.mark.parametrize("system", ["gpt", "ridge"])
def test_nothing_after_a_cutoff_moves_what_was_forecast_from_it(frame, system, refit):
    tiny = TINY if system == "gpt" else {"context": 24, "season": 12}
    forecaster = Forecaster(system, H, **tiny)
    found = forecaster.backtest(frame, n_windows=3, refit=refit)
    cutoffs = found["cutoff"].unique().sort()
    for cutoff in cutoffs[:: 2 if system == "gpt" else 1]:
        late = pl.col("ds") > cutoff
        moved = frame.with_columns(
            pl.when(late).then(pl.col("y") * 3 + 100).otherwise(pl.col("y")).alias("y")
        )
        again = forecaster.backtest(moved, n_windows=3, refit=refit)
        early = pl.col("cutoff") <= cutoff
        assert again.filter(early).drop("y").equals(found.filter(early).drop("y"))
        if cutoff < cutoffs[-1]:
            assert not again.filter(~early).drop("y").equals(found.filter(~early).drop("y"))


def test_evaluation_stands_beside_the_baselines(frame):
    forecaster = Forecaster("gpt", H, **TINY).fit(frame, val_size=20, test_size=30)
    scores = forecaster.evaluate(resamples=0)
    assert list(scores) == ["gpt", "seasonal_naive", "ridge"]
    for name, score in scores.items():
        assert score.n_windows == 3 * (30 - H + 1), name
        assert score.horizon == H
    # A model that was fitted on the first rows is scored on the same later ones.
    begun = frame.group_by("unique_id", maintain_order=True).head(90)
    other = Forecaster("gpt", H, **TINY).fit(begun, val_size=20)
    later = other.evaluate(frame, resamples=0)
    assert later["gpt"].metrics["mse"].value == scores["gpt"].metrics["mse"].value
    assert later["ridge"].metrics["mse"].value == scores["ridge"].metrics["mse"].value
    late = frame.group_by("unique_id", maintain_order=True).tail(100)
    moved = other.evaluate(late, baselines=(), resamples=0)
    assert moved["gpt"].n_windows == scores["gpt"].n_windows
    assert moved["gpt"].metrics["mse"].value == pytest.approx(scores["gpt"].metrics["mse"].value)
    ridge = Forecaster("ridge", H, context=24).fit(frame, split=ByProtocol(borders="shares"))
    assert list(ridge.evaluate(resamples=0)) == ["ridge", "seasonal_naive"]


def test_rows_that_a_split_leaves_out_are_not_scored():
    day = pl.duration(days=pl.int_range(725))
    daily = table((725,)).with_columns((pl.datetime(2016, 7, 1) + day).alias("ds"))
    naive = Forecaster("seasonal_naive", H)
    found = naive.fit(daily, split=ByProtocol(borders="ett")).evaluate(resamples=0)
    assert found["seasonal_naive"].n_windows == 120 - H + 1


def test_what_cannot_be_evaluated_is_refused(gpt, frame):
    with pytest.raises(InputError, match="rows that a window to be scored needs"):
        gpt.evaluate()
    new = frame.with_columns(pl.lit("new").alias("unique_id")).head(120)
    with pytest.raises(InputError, match="'new' was not trained on"):
        gpt.evaluate(new)


def test_series_that_are_mixed_stay_together(frame):
    tiny = TINY | {"forecasting": TINY["forecasting"] | {"mixing": True, "dense": False}}
    forecaster = Forecaster("gpt", H, **tiny).fit(frame)
    assert forecaster.predict().height == 3 * H
    assert forecaster.backtest(frame).height == 3 * H
    with pytest.raises(InputError, match="reads all series of a window together"):
        forecaster.predict(frame.filter(pl.col("unique_id") != "s1"))


def test_whatever_is_asked_before_fit_names_fit(frame, tmp_path):
    forecaster = Forecaster("ridge", H)
    for ask in (forecaster.predict, forecaster.evaluate, lambda: forecaster.save(tmp_path)):
        with pytest.raises(NotFittedError, match="call fit first"):
            ask()
    with pytest.raises(InputError, match="backtest: a model that was loaded, or not fitted"):
        forecaster.backtest()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"system": "gtp"}, "did you mean 'gpt'"),
        ({"system": "bkt"}, "bkt traces students and cannot forecast series; accepted are .*gpt"),
        ({"horizon": 0}, "horizon is 0; accepted are whole numbers from 1"),
        ({"context": 0}, "context is 0"),
        ({"settings": {"hedas": 2}}, "did you mean 'heads'"),
        ({"forecasting": {"pathc": 2}}, "did you mean 'patch'"),
        ({"forecasting": {"horizon": 2}}, "accepted is the parameter horizon="),
        ({"training": {"epochz": 2}}, "did you mean 'epochs'"),
        ({"training": {"steps_per_batch": 2}}, "accepted for series is windows_per_batch"),
        ({"system": "ridge", "training": {"epochs": 2}}, "has no training"),
        ({"system": "ridge", "forecasting": {"patch": 2}}, "has no forecasting setting 'patch'"),
        ({"system": "dlinear", "forecasting": {"dense": True}}, "accepted is dense = false"),
        ({"seed": -1}, "seed is -1"),
        ({"valid": 1.0}, r"valid is 1\.0"),
        ({"valid": 0.0}, r"valid is 0\.0; accepted is a share between 0 and 1"),
        ({"levels": (80, 100)}, "levels holds 100"),
    ],
)
def test_bad_settings_are_named_before_the_table_is_read(parameters, sentence):
    with pytest.raises(InputError, match=sentence):
        Forecaster().set_params(**parameters).fit("no such table")


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ((12,), "its longest series has 12 rows to fit on, too few for 6 that validate and one"),
        ((8, 9), "its longest series has 9 rows"),
    ],
)
def test_series_without_any_window_are_refused(sizes, sentence):
    with pytest.raises(InputError, match=sentence):
        Forecaster("gpt", H, **TINY).fit(table(sizes))


def test_sizes_that_cannot_be_used_are_refused(frame):
    with pytest.raises(InputError, match="val_size is 5; accepted are whole numbers from 6"):
        Forecaster("ridge", H).fit(frame, val_size=5)
    with pytest.raises(InputError, match="test_size is -1"):
        Forecaster("ridge", H).fit(frame, test_size=-1)
    with pytest.raises(InputError, match="n_windows is 0"):
        Forecaster("ridge", H).backtest(frame, n_windows=0)
    with pytest.raises(InputError, match="accepted are fewer or shorter windows"):
        Forecaster("ridge", H).backtest(frame, n_windows=40)


def test_what_is_missing_ahead_is_refused(told, sold, frame):
    with pytest.raises(InputError, match="series 's0' has no 'sale' at 2024-01-06"):
        told.predict()
    with pytest.raises(InputError, match="has no column 'sale'"):
        told.predict(futr_df=ahead(sold).drop("sale"))
    with pytest.raises(InputError, match="series 's2' has no 'sale'"):
        told.predict(futr_df=ahead(sold).filter(pl.col("unique_id") != "s2"))
    with pytest.raises(InputError, match="no column 'seen'"):
        told.predict(sold.drop("seen"), futr_df=ahead(sold))


def test_a_level_that_was_not_calibrated_is_refused(gpt):
    with pytest.raises(InputError, match=r"level 95: .* accepted are 80, 90"):
        gpt.predict(level=95)
    with pytest.raises(InputError, match=r"quantile 0\.3 was not calibrated; accepted are 0\.05"):
        gpt.predict(quantiles=[0.3])


def test_another_step_than_the_training_series_is_refused(gpt, frame):
    day = pl.duration(days=pl.int_range(pl.len()).over("unique_id"))
    daily = frame.with_columns((pl.datetime(2024, 1, 1) + day).alias("ds"))
    with pytest.raises(InputError, match="freq '1h' is not the data's"):
        gpt.predict(daily)


@pytest.mark.parametrize(("normalisation", "linear"), [("last", 24), ("none", 24), ("window", 48)])
def test_training_may_start_from_the_ridge(normalisation, linear):
    table = load_series("series_sample")
    roles = split(table, ByLast(test=24, valid=96))
    own = {
        "context": linear,
        "normalisation": {"window": "mean"}.get(normalisation, normalisation),
        "intercept": normalisation != "window",
        "covariates": False,
    }
    ridge = fit_plan(plan("ridge", own, {"horizon": 12}), table, roles, levels=())
    task = {"horizon": 12, "context": 48, "patch": 8, "linear": linear, "start": "ridge"}
    still = {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    started = fit_plan(
        plan("gpt", {"width": 16, "heads": 2}, task | {"normalisation": normalisation}, still),
        table, roles, levels=(),
    )  # fmt: skip
    series = started.build(table)
    windows = valid_origins(started.plan, series, roles)
    batch = gather(series, windows, np.arange(0, len(windows), 50), context=48, horizon=12)
    torch.testing.assert_close(
        started.predict(batch).point, ridge.predict(batch).point, atol=2e-4, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("system", "task", "said"),
    [
        ("gpt", {"linear": 0}, "set linear"),
        ("gpt", {"linear": 24, "normalisation": "window"}, "whole context"),
        ("nlinear", {"linear": 48}, "start = 'random'"),
    ],
)
def test_a_start_that_cannot_be_is_refused(system, task, said):
    with pytest.raises(InputError, match=said):
        plan(system, {}, {"horizon": 12, "context": 48, "start": "ridge"} | task)
