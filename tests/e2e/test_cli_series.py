"""Series of one's own through the real command, with a real tracking store."""

import re
import signal
import subprocess
import sys

import polars as pl
import pytest

from kt_forecast.cli import app
from kt_forecast.data.series.simulate import SeriesSimulation, simulate, write
from kt_forecast.tracking import runs as tracked_runs
from tests.e2e.test_cli import KT_FORECAST, kt_forecast, refused

__all__ = ["refused"]

MAPPED = ["--column", "unique_id=shop", "--column", "ds=hour", "--column", "y=sales"]
COVARIATES = ["--future", "temperature", "--static", "building"]
QUICK = [
    part
    for key in (
        "training.epochs=1",
        "model.settings.width=16",
        "model.settings.heads=2",
        "forecasting.context=48",
        "forecasting.windows_per_epoch=64",
        "baselines.settings.ridge.context=48",
        "evaluation.bootstraps=10",
    )
    for part in ("--set", key)
]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A table under its owner's own names, without its last day, and that day's covariates."""
    folder = tmp_path_factory.mktemp("own")
    write(simulate(SeriesSimulation(series=3, days=20)), folder / "all.csv")
    names = {"unique_id": "shop", "ds": "hour", "y": "sales"}
    frame = pl.read_csv(folder / "all.csv", try_parse_dates=True).rename(names)
    last = frame["hour"].max() - pl.duration(hours=12)
    frame.filter(pl.col("hour") <= last).write_csv(folder / "sales.csv")
    frame.filter(pl.col("hour") > last).drop("sales").write_csv(folder / "next.csv")
    return folder


def test_a_table_of_ones_own_becomes_a_report_and_a_forecast(own, tmp_path, monkeypatch, capsys):
    said = kt_forecast("data", "import", str(own / "sales.csv"), *MAPPED, *COVARIATES, cwd=tmp_path)
    assert "train --data sales --horizon STEPS" in said.stdout
    said = kt_forecast("train", "--data", "sales", "--horizon", "12", *QUICK, cwd=tmp_path)
    for word in ("gpt", "seasonal_naive", "ridge", "MASE", "held by 90 %", "audit verdict"):
        assert word in said.stdout
    folder = tmp_path / "mlruns" / "runs" / "gpt-sales"
    assert (folder / "report.html").is_file()
    row = next(line for line in said.stdout.splitlines() if "│ gpt" in line)

    def here(*words):
        app(list(words), standalone_mode=False)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KT_FORECAST_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setenv("COLUMNS", "80")
    here("evaluate", "gpt-sales")
    again = capsys.readouterr().out
    assert row in again
    assert "2 times" in again
    ahead = ["--column", "unique_id=shop", "--column", "ds=hour", "--column", "y=sales"]
    here(
        *("forecast", "gpt-sales", str(own / "sales.csv"), *ahead),
        *("--future", str(own / "next.csv"), "--level", "80", "--out", "ahead.csv"),
    )
    found = pl.read_csv(tmp_path / "ahead.csv")
    assert found.columns[2:] == ["gpt", "gpt-lo-80", "gpt-hi-80"]
    assert found.height == 3 * 12
    here("report", "gpt-sales", "--out", "page.html")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html")
    tracked = tracked_runs(tmp_path / "mlruns").row(0, named=True)
    assert tracked["name"] == "gpt-sales"
    assert tracked["status"] == "FINISHED"
    shown = float(re.search(r"│ gpt +│ ([\d.]+)", said.stdout)[1])
    assert tracked["metric.ltsf/mse"] == pytest.approx(shown, abs=1e-4)


def test_a_killed_run_goes_on_when_the_same_command_is_typed_again(own, tmp_path):
    command = ["train", "--data", str(own / "sales.csv"), *MAPPED, "--horizon", "12", *QUICK]
    command += ["--set", "training.epochs=400", "--set", "training.patience=400"]
    command += ["--set", "training.checkpoint_seconds=0", "--set", "tracking.enabled=false"]
    victim = subprocess.Popen(
        [str(KT_FORECAST), *command], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    for line in victim.stdout:
        if line.startswith("epoch 2:"):
            break
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    victim.stdout.close()
    assert not (tmp_path / "mlruns" / "runs").exists()
    assert list((tmp_path / "mlruns" / "checkpoints").glob("*/checkpoint.safetensors"))
    second = subprocess.Popen(
        [str(KT_FORECAST), *command], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in second.stdout:
        lines.append(line)
        if line.startswith("epoch"):
            break
    second.send_signal(signal.SIGKILL)
    second.wait()
    second.stdout.close()
    assert any("going on where it stopped" in line for line in lines), lines


def test_the_check_says_what_series_hold(own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    app(["data", "check", str(own / "sales.csv"), *MAPPED], standalone_mode=False)
    said = capsys.readouterr().out
    for word in ("series", "1h", "season", "hash"):
        assert word in said
    assert list(tmp_path.iterdir()) == []


def test_columns_that_decide_the_task_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"2024-01-{day:02},{day},{day * day}\n" for day in range(1, 29))
    (tmp_path / "wide.csv").write_text("date,load,oil\n" + rows)
    app(["data", "check", "wide.csv"], standalone_mode=False)
    said = capsys.readouterr().out
    assert "read as series, for it begins with dates, in the column 'date'" in said
    assert "--task knowledge_tracing" in said


def bad_tables(folder):
    good = "unique_id,ds,y\na,2024-01-01,1\na,2024-01-02,2\na,2024-01-03,3\n"
    yield folder / "twice.csv", good + "a,2024-01-03,4\n"
    yield folder / "words.csv", good + "a,2024-01-04,many\n"
    yield folder / "stamp.csv", good + "a,some day,4\n"
    yield folder / "gap.csv", good + "a,2024-01-06,4\n"
    yield folder / "empty.csv", "unique_id,ds,y\n"
    yield folder / "short.csv", good


@pytest.mark.parametrize("case", range(6))
def test_bad_series_are_refused_in_one_sentence_and_nothing_is_written(case, tmp_path, refused):
    path, content = list(bad_tables(tmp_path))[case]
    path.write_text(content)
    sentence = refused("train", "--data", str(path), "--horizon", "4")
    assert len(sentence.strip().splitlines()) == 1
    assert path.stem in sentence
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_looking_at_series_loads_no_torch(own, tmp_path):
    script = (
        "import sys\nfrom kt_forecast.cli import app\n"
        f"app(['data', 'check', {str(own / 'sales.csv')!r}, *{MAPPED!r}], standalone_mode=False)\n"
        "print('torch' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert told.stdout.splitlines()[-1] == "False"
