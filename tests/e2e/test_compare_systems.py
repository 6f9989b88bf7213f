"""Several systems under several recipes, each trained in a process, where MLflow is not here."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from kt_forecast.data.series.simulate import SeriesSimulation
from kt_forecast.data.series.simulate import simulate as simulate_series
from kt_forecast.data.simulate import Simulation, simulate, write
from kt_forecast.experiment import Recipe, find
from kt_forecast.experiment.training_processes import _Working, train_each

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


SETS = ("--set", "training.epochs=1", "--set", "tracking.enabled=false")


@pytest.fixture(scope="module")
def compared(place):
    systems = ("--system", "gpt,ridge", "--workers", "2")
    words = ("compare", "a.toml", "s.toml", *systems, *SETS, "--json", "b.json")
    return command(place, *words, check=False)


def test_every_system_is_trained_under_every_recipe_and_what_fails_is_said(compared, place):
    assert compared.returncode == 1, compared.stdout + compared.stderr
    assert "ridge is missing, a: ridge is not for students" in compared.stdout
    board = json.loads((place / "b.json").read_text())
    students, series = board["groups"]
    assert {"a", "item_mean", "logistic"} == {row["system"] for row in students["rows"]}
    assert {"s", "s-ridge", "seasonal_naive"} == {row["system"] for row in series["rows"]}
    assert [one["system"] for one in board["failed"]] == ["ridge"]
    gpt = next(one for one in board["standings"] if one["system"] == "gpt")
    assert all(cell["rank"] >= 1 for cell in gpt["cells"])
    assert board["standings"][0] == gpt, "what is missing somewhere comes last"
    page = (place / "mlruns" / "compare.html").read_text()
    assert "All data sets" in page
    assert "ridge is missing" in page


def test_keys_are_set_in_every_recipe(compared, place):
    assert compared.returncode == 1
    for name in ("a", "s"):
        assert len(find(name, place / "mlruns").record.curve) == 1


def test_runs_are_scored_again_without_mlflow(compared, place):
    assert compared.returncode == 1
    command(place, "evaluate", "a")
    assert not (place / "mlruns" / "mlflow.db").exists()


def test_a_training_that_fails_takes_no_other_with_it(place, tmp_path):
    plain = {"data": {"source": str(tmp_path / "none.csv")}, "name": "nobody"}
    heard = []
    ended = train_each(
        [Recipe.parse(plain, "test")], workers=1, runs=tmp_path, device="cpu", say=heard.append
    )
    (one,) = ended
    assert one.folder is None
    assert "none.csv" in one.why
    assert str(tmp_path / "compare") in heard[0]


def test_a_killed_training_is_told_by_its_signal(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process.send_signal(signal.SIGKILL)
    process.wait()
    ended = _Working(3, process, tmp_path / "spec.json", time.monotonic()).ended()
    assert (ended.number, ended.folder) == (3, None)
    assert "signal 9" in ended.why
