"""Simulated students: repeatable, shaped as promised, learning and forgetting."""

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kt_forecast.data.cards import read_card
from kt_forecast.data.simulate import Simulation, simulate, write
from kt_forecast.data.tables import load
from kt_forecast.schema import CONCEPTS, P_CORRECT, QUESTION, RESPONSE, STUDENT, TIME

SAMPLE = Path(__file__).parents[2] / "datasets" / "sample" / "interactions.csv.gz"


@pytest.fixture(scope="module")
def many() -> pl.DataFrame:
    return simulate(Simulation(students=2000, seed=1), truth=True)


def test_the_same_seed_gives_the_same_table():
    small = Simulation(students=20)
    assert simulate(small).equals(simulate(small))
    assert not simulate(small).equals(simulate(Simulation(students=20, seed=1)))


def test_the_committed_sample_is_what_its_card_says(tmp_path):
    write(simulate(Simulation()), tmp_path / "again.csv.gz")
    made, kept = ((p).read_bytes() for p in (tmp_path / "again.csv.gz", SAMPLE))
    assert gzip.decompress(made) == gzip.decompress(kept)
    assert len(kept) < 400_000
    card = read_card("sample")
    assert card.simulated
    assert "Nothing in it\nwas ever observed" in card.description
    assert len(load("sample").students) == 300


def test_the_door_takes_it_as_it_is(many):
    made = load(many)
    assert len(made) == many.height
    assert not any("merged" in note or "sorted" in note for note in made.notes)


def test_shapes(many):
    settings = Simulation()
    steps = many.group_by(STUDENT).len()["len"]
    assert steps.mean() == pytest.approx(settings.mean_steps, rel=0.1)
    sizes = many[CONCEPTS].list.len()
    assert set(sizes.unique()) == {1, 2, 3}
    assert many[CONCEPTS].list.n_unique().equals(sizes)
    assert many.group_by(QUESTION).agg(pl.col(CONCEPTS).n_unique())[CONCEPTS].max() == 1
    gaps = many.select(pl.col(TIME).diff().over(STUDENT))[TIME].drop_nulls()
    assert gaps.min() == 0
    assert (gaps == 0).mean() == pytest.approx(settings.bundled, rel=0.3)
    assert (gaps > 8 * 3_600_000).mean() > 0.01


def test_responses_follow_the_true_chance(many):
    chance = many[P_CORRECT].to_numpy()
    response = many[RESPONSE].to_numpy()
    for low, high in ((0.0, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.0)):
        inside = (chance >= low) & (chance < high)
        error = np.sqrt(0.25 / inside.sum())
        assert abs(response[inside].mean() - chance[inside].mean()) < 4 * error


def test_students_learn_by_practice_and_forget_by_time():
    flat = Simulation(ability=0.0, difficulty=0.0, students=300, seed=2, max_concepts=1)
    learning = simulate(flat.model_copy(update={"forgetting": 0.0}), truth=True)
    forgetting = simulate(flat, truth=True)
    nth = pl.int_range(pl.len()).over(STUDENT, CONCEPTS)
    by_practice = learning.group_by(nth.alias("nth")).agg(pl.col(P_CORRECT).mean()).sort("nth")
    assert by_practice[P_CORRECT][:10].is_sorted()
    assert by_practice[P_CORRECT][5] > by_practice[P_CORRECT][0] + 0.1
    assert (forgetting[P_CORRECT] <= learning[P_CORRECT] + 1e-12).all()
    assert (forgetting[P_CORRECT] < learning[P_CORRECT] - 0.05).any()


def test_a_question_of_an_empty_topic_is_replaced():
    few = simulate(Simulation(students=5, questions=3, concepts=10))
    assert few[QUESTION].max() < 3
