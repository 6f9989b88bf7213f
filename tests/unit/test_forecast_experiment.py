import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from kt_forecast.audit import Report
from kt_forecast.data.cards import read_card
from kt_forecast.data.series.simulate import SeriesSimulation, simulate, write
from kt_forecast.errors import InputError
from kt_forecast.experiment import (
    ForecastRecipe,
    ForecastRun,
    evaluate,
    find,
    forecast,
    predict,
    report,
    run,
    tables,
)
from kt_forecast.experiment.recipe_forecast import SeriesRecipe
from kt_forecast.experiment.running import CHECKPOINTS
from kt_forecast.experiment.series_runs import PARTS
from kt_forecast.experiment.stored import (
    AUDIT,
    AUDIT_PAGE,
    MODEL,
    RECIPE,
    RECORD,
    REPORT,
    SPLIT,
    TEST_READS,
)
from kt_forecast.tracking import runs as tracked_runs

HORIZON = 12
TINY = {
    "name": "tiny",
    "split": {"kind": "share"},
    "model": {"system": "gpt", "settings": {"width": 16, "heads": 2}},
    "forecasting": {"horizon": HORIZON, "context": 48, "patch": 12, "windows_per_epoch": 64},
    "training": {"epochs": 2},
    "evaluation": {"bootstraps": 20},
    "baselines": {"settings": {"ridge": {"context": 48}}},
    "tracking": {"enabled": False},
}
DATA = {"future": ["temperature", "holiday"], "static": ["building"]}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "demand.csv.gz"
    write(simulate(SeriesSimulation(series=3, days=20)), path)
    return path


@pytest.fixture(scope="module")
def recipe(table):
    return ForecastRecipe.parse({"data": {"source": str(table)} | DATA} | TINY, "test")


@pytest.fixture(scope="module")
def done(recipe, tmp_path_factory):
    runs = tmp_path_factory.mktemp("mlruns")
    said: list[str] = []
    made = run(recipe, runs=runs, device="cpu", say=said.append)
    return made, runs, said


@pytest.fixture
def light(monkeypatch):
    """Leave out audit and figures, which one test looks at, where a test needs another run."""
    stored = Report(verdict="unproven", scope={})
    monkeypatch.setattr("kt_forecast.experiment.forecasting.audited", lambda *_: stored)
    for module in ("running", "forecast_again"):
        monkeypatch.setattr(f"kt_forecast.experiment.{module}.render", lambda record: record.title)


def scores(made, place=0):
    return made.record.protocols[place].model


def changed(recipe, **changes):
    return recipe.changed(changes, "test")


def test_a_run_leaves_everything_behind(done, recipe):
    made, runs, said = done
    assert isinstance(made, ForecastRun)
    parts = {RECIPE, SPLIT, MODEL, RECORD, REPORT, TEST_READS, AUDIT, AUDIT_PAGE}
    assert {path.name for path in made.folder.iterdir()} == parts
    record = made.record
    protocol = record.protocols[0]
    assert set(protocol.baselines) == {"seasonal_naive", "ridge"}
    assert set(protocol.differences) == set(protocol.baselines)
    assert {"mse", "mae", "mase", "wql"} <= set(protocol.model)
    assert protocol.model["mse"].low < protocol.model["mse"].value < protocol.model["mse"].high
    stored = json.loads((made.folder / SPLIT).read_text())
    assert record.split.split_hash == stored["split_hash"]
    assert record.data.data_hash == stored["data_hash"]
    train, valid, test = record.split.parts
    assert (train.name, valid.name, test.name) == ("train", "valid", "test")
    rows = 20 * 24
    assert train.n_rows == 3 * int(0.7 * rows)
    assert protocol.n_windows == test.n_windows == 3 * (int(0.2 * rows) - HORIZON + 1)
    assert train.last < valid.first < test.first
    assert record.verdict is not None
    assert not record.verdict.leaks
    assert len(record.curve) == 2
    assert record.settings["forecasting"]["context"] == 48
    assert record.settings["training"]["metric"] == "mse", "defaults are resolved"
    assert len(protocol.by_step.steps) == HORIZON
    assert len(protocol.by_step.intervals[0].coverage) == HORIZON
    assert [one.level for one in protocol.intervals["gpt"]] == [80.0, 90.0, 95.0]
    assert {fan.rank for fan in record.fans} == {"best", "median", "worst"}
    assert set(record.fans[0].beside) == set(protocol.baselines)
    assert len(json.loads((made.folder / TEST_READS).read_text())) == 1
    assert not list((runs / CHECKPOINTS).iterdir()), "a finished run needs no checkpoint"
    assert any(sentence.startswith("epoch 1: loss") for sentence in said)
    assert find("tiny", runs).record == record
    page = (made.folder / REPORT).read_text()
    for word in ("tiny", "seasonal_naive", "ridge", "Coverage"):
        assert word in page


def test_what_stands_beside_a_fan_is_the_baselines_own_forecast(done, table):
    made, _, _ = done
    frame = pl.read_csv(table, try_parse_dates=True)
    for fan in made.record.fans:
        values = frame.filter(pl.col("unique_id") == fan.series).sort("ds")
        stamps = [str(stamp) for stamp in values["ds"]]
        first = stamps.index(fan.stamps[0])
        y = values["y"].to_numpy()
        assert np.allclose(fan.actual, y[first : first + HORIZON], atol=1e-3)
        assert np.allclose(fan.past, y[first - 48 : first], atol=1e-3)
        assert np.allclose(
            fan.beside["seasonal_naive"], y[first - 24 : first - 24 + HORIZON], atol=1e-3
        )


@pytest.mark.usefixtures("light")
def test_the_stored_recipe_makes_the_run_again(done, tmp_path):
    made, runs, _ = done
    stored = ForecastRecipe.read(made.folder / RECIPE)
    again = run(stored, runs=tmp_path, device="cpu", say=len)
    assert scores(again) == scores(made)
    assert again.record.split == made.record.split
    said: list[str] = []
    cached = run(stored, runs=runs, device="cpu", say=said.append)
    assert cached.name == "tiny-2"
    assert sum("from the cache" in sentence for sentence in said) == 2
    assert cached.record.protocols[0].baselines == made.record.protocols[0].baselines


@pytest.mark.usefixtures("light")
def test_another_protocol_on_the_stored_rows_is_noted(recipe, tmp_path):
    run(recipe, runs=tmp_path, device="cpu", say=len)
    said: list[str] = []
    found = evaluate("tiny", protocols=("rolling",), runs=tmp_path, device="cpu", say=said.append)
    assert found.record.protocols[0].n_windows == 3 * (96 // HORIZON)
    stored = find("tiny", tmp_path).record
    assert [one.name.partition(",")[0] for one in stored.protocols] == ["ltsf", "rolling"]
    reads = json.loads((found.folder / TEST_READS).read_text())
    assert [one["why"] for one in reads] == ["train", "evaluate"]
    assert any("2 times" in sentence for sentence in said)
    again = evaluate("tiny", runs=tmp_path, device="cpu", say=len)
    assert again.record.protocols[0] == stored.protocols[0]
    with pytest.raises(InputError, match="did you mean 'rolling'"):
        evaluate("tiny", protocols=("roling",), runs=tmp_path, say=len)


@pytest.mark.usefixtures("light")
def test_a_changed_table_is_not_the_one_of_the_split(recipe, table, tmp_path):
    mine = tmp_path / "demand.csv"
    frame = pl.read_csv(table)
    frame.write_csv(mine)
    quick = changed(recipe, data={"source": str(mine)}, training={"epochs": 1})
    run(quick, runs=tmp_path, device="cpu", say=len)
    frame.with_columns(y=2 * pl.col("y")).write_csv(mine)
    with pytest.raises(InputError, match="other series"):
        evaluate("tiny", runs=tmp_path, say=len)


def test_forecasts_are_those_of_the_stored_model(done, table, tmp_path):
    _, runs, _ = done
    frame = pl.read_csv(table, try_parse_dates=True)
    last = frame["ds"].max() - pl.duration(hours=HORIZON)
    known, ahead = tmp_path / "known.csv", tmp_path / "ahead.csv"
    frame.filter(pl.col("ds") <= last).write_csv(known)
    frame.filter(pl.col("ds") > last).drop("y").write_csv(ahead)
    data = {"source": str(known)}
    out = forecast("tiny", data, future=ahead, out=tmp_path / "out.parquet", runs=runs)
    found = pl.read_parquet(out)
    assert found.columns == ["unique_id", "ds", "gpt", "gpt-lo-90", "gpt-hi-90"]
    assert found.height == 3 * HORIZON
    assert found["ds"].min() > frame.filter(pl.col("ds") <= last)["ds"].max()
    assert (found["gpt-lo-90"] <= found["gpt"]).all()
    assert (found["gpt"] <= found["gpt-hi-90"]).all()
    wide = forecast(
        "tiny", data, future=ahead, levels=(80, 95), out=tmp_path / "out.csv", runs=runs
    )
    assert "gpt-hi-95" in pl.read_csv(wide).columns
    assert np.allclose(pl.read_csv(wide)["gpt"], found["gpt"])
    with pytest.raises(InputError, match="accepted endings"):
        forecast("tiny", data, future=ahead, out=tmp_path / "out.xls", runs=runs)
    with pytest.raises(InputError, match="temperature"):
        forecast("tiny", data, out=tmp_path / "none.csv", runs=runs)
    with pytest.raises(InputError, match="kt-forecast forecast tiny"):
        predict("tiny", data, runs=runs)
    assert not (tmp_path / "none.csv").exists()


def test_the_report_is_written_again(done, tmp_path):
    made, runs, _ = done
    assert report("tiny", out=tmp_path / "page.html", runs=runs).is_file()
    assert report("tiny", runs=runs) == made.folder / REPORT


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"source": "no such table.csv"}},
        {"data": {"future": ["rain"]}},
        {"model": {"system": "gtp"}},
        {"split": {"kind": "last", "test": 12, "valid": 100000}},
    ],
)
def test_refused_input_writes_nothing(recipe, changes, tmp_path):
    with pytest.raises(InputError):
        run(changed(recipe, **changes), runs=tmp_path / "mlruns", say=len)
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.usefixtures("light")
def test_horizons_and_seeds_and_their_means(recipe, tmp_path):
    several = changed(
        recipe, model={"system": "nlinear", "settings": {}}, training={"epochs": 1}, seeds=[0, 1]
    )
    plain = several.plain()
    plain["model"] = {"system": "nlinear"}
    plain["forecasting"] = {"context": 48}
    several = ForecastRecipe.parse(plain | {"horizons": [6, 12]}, "test")
    made = run(several, runs=tmp_path, device="cpu", say=len)
    names = [f"tiny-h{h}-seed{s}" for h in (6, 12) for s in (0, 1)]
    assert json.loads((made.folder / PARTS).read_text()) == names
    values = np.array([scores(find(name, tmp_path))["mse"].value for name in names]).reshape(2, 2)
    mean, six, twelve = (one.model["mse"] for one in made.record.protocols)
    assert np.isclose(mean.value, values.mean())
    by_seed = values.mean(0)
    assert np.isclose(mean.high - mean.value, by_seed.std(ddof=1))
    assert np.isclose(six.value, values[0].mean())
    assert np.isclose(twelve.high - twelve.value, values[1].std(ddof=1))
    assert made.record.protocols[0].horizons == (6, 12)
    assert "2 seeds" in made.record.protocols[0].interval
    coverage = made.record.protocols[0].intervals["nlinear"][1].coverage.value
    each = [
        find(name, tmp_path).record.protocols[0].intervals["nlinear"][1].coverage.value
        for name in names
    ]
    assert np.isclose(coverage, np.mean(each))
    assert len(made.record.protocols[1].by_step.steps) == 6
    with pytest.raises(InputError, match="tiny-h12-seed0"):
        evaluate("tiny", runs=tmp_path, say=len)
    # An interrupted call left some runs and no summary; the same call goes on from them.
    shutil.rmtree(made.folder)
    shutil.rmtree(tmp_path / "runs" / names[3])
    said: list[str] = []
    again = run(several, runs=tmp_path, device="cpu", say=said.append)
    assert sum("finished before" in line for line in said) == 3
    assert scores(again) == scores(made)


@pytest.mark.usefixtures("light")
def test_an_interrupted_run_goes_on_when_the_same_recipe_is_run_again(done, recipe, tmp_path):
    made, _, _ = done

    def interrupt(sentence: str) -> None:
        if sentence.startswith("epoch 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, runs=tmp_path, device="cpu", say=interrupt)
    assert not (tmp_path / "runs").exists()
    said: list[str] = []
    resumed = run(recipe, runs=tmp_path, device="cpu", say=said.append)
    assert any("going on" in sentence for sentence in said)
    assert scores(resumed) == scores(made)


def test_a_model_that_fails_the_audit_is_named_so_everywhere(done):
    made, _, _ = done
    guilty = replace(made.record.verdict, verdict="leak", findings=("reads the answer",))
    shown = replace(made, record=replace(made.record, verdict=guilty))
    assert "LEAKS" in shown.tables()[0][2][0][0]
    assert any("LEAKS" in line for line in shown.closing())
    assert "LEAKS" not in made.tables()[0][2][0][0]


def test_the_final_table_shows_errors_and_coverage_of_all(done):
    made, _, _ = done
    _, header, rows = made.tables()[0]
    assert header == ("system", "MSE", "MAE", "MASE", "WQL", "held by 90 %")
    assert [row[0] for row in rows] == ["gpt", "seasonal_naive", "ridge"]
    assert all(row[-1].endswith("%") for row in rows)
    assert any("the best beside it" in line for line in made.closing())


def test_a_kept_table_of_series_is_the_same_data_set(table, tmp_path, monkeypatch):
    monkeypatch.setenv("KT_FORECAST_DATASETS", str(tmp_path / "sets"))
    source = tmp_path / "own.csv"
    pl.read_csv(table).rename({"unique_id": "shop", "ds": "hour"}).write_csv(source)
    columns = {"unique_id": "shop", "ds": "hour"}
    data = SeriesRecipe.parse({"source": str(source), "columns": columns} | DATA, "test")
    tables.keep(data, "mine")
    card = read_card("mine")
    assert card.task == "forecasting"
    assert card.future == ("temperature", "holiday")
    kept, own = tables.checked(SeriesRecipe(source="mine")), tables.checked(data)
    assert kept.summary == own.summary
    assert ("mine", "mine", "forecasting", "yes", "not stated") in tables.data_sets()


@pytest.mark.slow
def test_mlflow_has_the_run_and_serves_its_model_in_a_fresh_process(recipe, table, tmp_path):
    tracked = changed(recipe, tracking={"enabled": True}, training={"epochs": 1})
    made = run(tracked, runs=tmp_path, device="cpu", say=len)
    frame = pl.read_csv(table, try_parse_dates=True)
    last = frame["ds"].max() - pl.duration(hours=HORIZON)
    known, ahead = tmp_path / "known.csv", tmp_path / "ahead.csv"
    frame.filter(pl.col("ds") <= last).write_csv(known)
    frame.filter(pl.col("ds") > last).drop("y").write_csv(ahead)
    script = f"""
import json, logging, mlflow, pandas
from pathlib import Path
from kt_forecast.tracking import runs
logging.getLogger("mlflow").setLevel(logging.ERROR)
found = runs(Path({str(tmp_path)!r})).row(0, named=True)
held = [one.path for one in mlflow.MlflowClient().list_artifacts(found["run"])]
model = mlflow.pyfunc.load_model(f"runs:/{{found['run']}}/model")
both = [pandas.read_csv(one, parse_dates=["ds"]) for one in ({str(known)!r}, {str(ahead)!r})]
ahead = model.predict(pandas.concat(both), params={{"level": 80}})
assert "gpt-lo-80" in ahead.columns
ahead = ahead["gpt"].tolist()
print(json.dumps([{{key: str(value) for key, value in found.items()}}, held, ahead]))
"""
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert told.returncode == 0, told.stderr
    facts, held, found = json.loads(told.stdout.splitlines()[-1])
    assert facts["name"] == "tiny"
    assert facts["experiment"] == "forecasting"
    assert facts["tag.data.hash"] == made.record.data.data_hash
    assert facts["tag.data.split"] == made.record.split.split_hash
    assert float(facts["metric.ltsf/mse"]) == pytest.approx(scores(made)["mse"].value)
    assert float(facts["metric.ltsf/coverage_90"]) > 0
    assert "metric.ltsf/ridge/mse_low" in facts
    assert "metric.train_loss" in facts
    assert {"figures", "recipe.toml", "report", "settings.json", "split.json"} <= set(held)
    data = {"source": str(known)}
    expected = forecast("tiny", data, future=ahead, out=tmp_path / "out.csv", runs=tmp_path)
    assert np.allclose(found, pl.read_csv(expected)["gpt"], atol=1e-4)
    evaluate("tiny", protocols=("rolling",), runs=tmp_path, device="cpu", say=len)
    later = tracked_runs(tmp_path).row(0, named=True)
    assert later["metric.rolling/mse"] > 0
    assert later["status"] == "FINISHED"
