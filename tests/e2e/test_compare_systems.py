"""Several systems under several recipes, in processes of their own, where MLflow is not here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kt_forecast.data.series.simulate import SeriesSimulation
from kt_forecast.data.series.simulate import simulate as simulate_series
from kt_forecast.data.simulate import Simulation, simulate, write
from kt_forecast.experiment import find
from kt_forecast.experiment.compare import compare
from kt_forecast.experiment.stored import RECIPE, REPORT

NO_MLFLOW = """
import importlib.metadata as metadata, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mlflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
known = metadata.version

def version(name):
    if name == "mlflow":
        raise metadata.PackageNotFoundError(name)
    return known(name)

metadata.version = version
"""
STUDENTS = """
[data]
source = "a.csv.gz"
[training]
epochs = 3
steps_per_batch = 256
[evaluation]
bootstraps = 20
"""
SERIES = """
task = "forecasting"
[data]
source = "s.csv"
[split]
kind = "share"
[forecasting]
horizon = 6
context = 24
windows_per_epoch = 64
[training]
epochs = 3
[evaluation]
bootstraps = 20
levels = []
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two tables, a recipe of each, and an environment without MLflow."""
    folder = tmp_path_factory.mktemp("board")
    write(
        simulate(Simulation(students=30, mean_steps=12, questions=12, concepts=4)),
        folder / "a.csv.gz",
    )
    simulate_series(SeriesSimulation(series=2, days=16)).write_csv(folder / "s.csv")
    (folder / "a.toml").write_text(STUDENTS)
    (folder / "s.toml").write_text(SERIES)
    (folder / "absent").mkdir()
    (folder / "absent" / "sitecustomize.py").write_text(NO_MLFLOW)
    return folder


def command(folder, *words, check=True):
    path = os.pathsep.join([str(folder / "absent"), *sys.path])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "kt_forecast.cli", *words, "--device", "cpu"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


SETS = ("--set", "tracking.enabled=false", "--set", "evaluation.bootstraps=10")
ASKED = ("compare", "a.toml", "s.toml", *SETS, "--system", "logistic,ridge", "--hours", "1")


@pytest.fixture(scope="module")
def compared(place):
    return command(place, *ASKED, "--json", "b.json", check=False)


def test_every_system_is_trained_under_every_recipe_and_what_fails_is_said(compared, place):
    assert compared.returncode == 1, compared.stdout + compared.stderr
    assert "ridge is missing, a: ridge is not for students" in compared.stdout
    board = json.loads((place / "b.json").read_text())
    students, series = board["groups"]
    assert {"a-logistic", "item_mean"} == {row["system"] for row in students["rows"]}
    assert {"s-ridge", "seasonal_naive"} == {row["system"] for row in series["rows"]}
    assert {one["system"] for one in board["failed"]} == {"ridge", "logistic"}
    assert not [said for said in board["said"] if "unfinished" in said]
    page = (place / "mlruns" / "compare.html").read_text()
    assert "All data sets" in page
    assert "<h2 id='missing'>" in page
    assert "ridge is not for students" in page


def test_keys_are_set_in_every_recipe_and_no_page_is_drawn_that_nobody_asked_for(compared, place):
    assert compared.returncode == 1
    for name in ("a-logistic", "s-ridge"):
        run = find(name, place / "mlruns")
        assert "bootstraps = 10\n" in (run.folder / RECIPE).read_text()
        assert not (run.folder / REPORT).exists()
        assert f"report: kt-forecast report {name}" in run.closing()


def test_the_same_again_takes_what_is_there(compared, place, monkeypatch):
    assert compared.returncode == 1
    monkeypatch.chdir(place)

    def none(*_, **__):
        raise AssertionError("a process was started")

    monkeypatch.setattr("kt_forecast.experiment.training_processes.Worker.started", none)
    asked = {"systems": ["logistic", "ridge"], "sets": [SETS[1], SETS[3]], "hours": 1.0}
    board = compare(["a.toml", "s.toml"], runs=Path("mlruns"), say=lambda _: None, **asked)
    assert board.to_json() == (place / "b.json").read_text()


def test_runs_are_scored_again_without_mlflow(compared, place):
    assert compared.returncode == 1
    command(place, "evaluate", "a-logistic")
    assert not (place / "mlruns" / "mlflow.db").exists()
