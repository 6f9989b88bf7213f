"""The study of long histories scores the same steps twice, and only those with older answers."""

import json

import numpy as np
import pytest

from kt_forecast.data.simulate import Simulation, simulate, write
from kt_forecast.data.splits import Role
from kt_forecast.errors import InputError
from kt_forecast.experiment import Recipe, run
from kt_forecast.experiment.flow import prepare
from kt_forecast.experiment.history import history_study, longer_than
from kt_forecast.experiment.tables import load
from kt_forecast.sequences.counts import looked_back

LATEST = 8


def recipe(folder, name, **settings):
    plain = {
        "name": name,
        "data": {"source": str(folder / "a.csv.gz")},
        "model": {"system": "gpt", "settings": {"width": 8, "heads": 1, **settings}},
        "tracing": {"counts": False},
        "training": {"epochs": 1, "steps_per_batch": 256},
        "evaluation": {"protocols": ["full"], "bootstraps": 20},
        "tracking": {"enabled": False},
    }
    return Recipe.parse(plain, "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("histories")
    students = simulate(Simulation(students=30, mean_steps=20, questions=15, concepts=4))
    write(students, folder / "a.csv.gz")
    for name, settings in (("far", {}), ("near", {"window": LATEST - 2})):
        one = recipe(folder, name, **settings)
        run(one, runs=folder / "mlruns", device="cpu", say=lambda _: None)
    return folder


def test_only_what_reads_older_answers_gains_from_them(made):
    study = history_study(
        ["far", "near"], latest=[LATEST], most=10**6, runs=made / "mlruns", device="cpu"
    )
    far, near = study.gains
    assert near.gain == (0.0, 0.0, 0.0)
    assert far.gain[0] != 0
    assert far.steps == near.steps
    assert json.loads(study.to_json())[0]["run"] == "far"
    ((_, header, rows),) = study.tables()
    assert [len(row) for row in rows] == 2 * [len(header)]


def test_steps_without_an_older_history_are_not_scored(made):
    one = recipe(made, "far")
    test = prepare(one, load(one.data)).parts[Role.TEST]
    begin, stop = looked_back(test)
    asked = longer_than(test, LATEST, most=10**6, seed=0)
    assert np.array_equal(asked.scored.numpy(), stop - begin >= LATEST)
    few = longer_than(test, LATEST, most=5, seed=0).scored.numpy()
    start = test.start.numpy()
    kept = np.add.reduceat(few, start[:-1])
    whole = np.add.reduceat(asked.scored.numpy(), start[:-1])
    assert 5 <= kept.sum() < whole.sum()
    assert set(np.flatnonzero(kept != whole)) == set(np.flatnonzero((kept == 0) & (whole > 0)))


def test_a_history_longer_than_all_is_refused(made):
    with pytest.raises(InputError, match="no scored step has 5000 answers before it"):
        history_study(["far"], latest=[5000], most=9, runs=made / "mlruns", device="cpu")
