"""What training students tell of a question, against loops; the own student always left out."""

import numpy as np
import pytest
import torch

from kt_forecast.data.simulate import Simulation, simulate
from kt_forecast.data.tables import load
from kt_forecast.sequences.batching import Batches, chunks, collate
from kt_forecast.sequences.build import build, fit_vocabulary
from kt_forecast.tasks.statistics import (
    ANSWERS,
    CONCEPT_SHRINKAGE,
    QUESTION_SHRINKAGE,
    RIGHT,
    QuestionNeighbours,
    QuestionRates,
)


@pytest.fixture(scope="module")
def students():
    table = load(simulate(Simulation(students=12, seed=3)))
    vocabulary = fit_vocabulary(table)
    return build(table, vocabulary), vocabulary


def of_students(sequences):
    return np.repeat(np.arange(sequences.n_students), np.diff(sequences.start.numpy()))


def test_counts_equal_a_loop_and_the_own_share_is_what_the_student_added(students):
    sequences, vocabulary = students
    rates = QuestionRates(vocabulary)
    fitted = rates.fit(sequences)
    question, response = sequences.question.numpy(), sequences.response.numpy()
    student = of_students(sequences)
    for index in range(1, len(vocabulary.questions) + 1):
        asked = question == index
        assert rates.question[index, ANSWERS] == asked.sum()
        assert rates.question[index, RIGHT] == response[asked].sum()
    for step in range(0, sequences.n_steps, 7):
        mine = (question == question[step]) & (student == student[step])
        assert fitted.own[step, RIGHT] == response[mine].sum()
        assert fitted.own[step, ANSWERS] == mine.sum()


def test_the_rate_of_a_training_step_does_not_know_its_student(students):
    sequences, vocabulary = students
    rates = QuestionRates(vocabulary)
    fitted = rates.fit(sequences)
    batch = collate(fitted, chunks(fitted, None))
    features, expected = rates(batch)
    question, response = sequences.question.numpy(), sequences.response.numpy()
    student = of_students(sequences)
    place = int(batch.place[0, 3])
    others = (question == question[place]) & (student != student[place])
    present = batch.concepts[0, 3][batch.concepts[0, 3] > 0]
    counts = rates.concept[present]
    concept = (counts[:, 0] + CONCEPT_SHRINKAGE * rates.overall) / (
        counts[:, 1] + CONCEPT_SHRINKAGE
    )
    wanted = (response[others].sum() + QUESTION_SHRINKAGE * concept.mean()) / (
        others.sum() + QUESTION_SHRINKAGE
    )
    assert expected[0, 3].item() == pytest.approx(wanted.item(), abs=1e-5)
    assert features.isfinite().all()


def test_a_new_student_has_nothing_taken_out(students):
    sequences, vocabulary = students
    rates = QuestionRates(vocabulary)
    rates.fit(sequences)
    assert sequences.own is None
    batch = collate(sequences, chunks(sequences, None))
    assert batch.own is None
    known = rates.question[batch.question][..., ANSWERS]
    features, _ = rates(batch)
    torch.testing.assert_close(features[..., 1], known.log1p())


def test_unknown_questions_are_told_by_their_concepts_alone(students):
    sequences, vocabulary = students
    rates = QuestionRates(vocabulary)
    rates.fit(sequences)
    batch = collate(sequences, chunks(sequences, None))
    nameless = batch.map(lambda x: x)
    nameless.question.zero_()
    features, expected = rates(nameless)
    assert (features[..., 1] == 0).all()
    assert (features[..., 3] == 0).all()
    torch.testing.assert_close(features[..., 0], features[..., 2])
    assert ((expected > 0) & (expected < 1)).all()


def test_own_shares_travel_with_every_chunk(students):
    sequences, vocabulary = students
    fitted = QuestionRates(vocabulary).fit(sequences)
    for batch in Batches(fitted, history=7, steps_per_batch=64):
        for row, step in batch.real.nonzero().tolist():
            assert torch.equal(batch.own[row, step], fitted.own[batch.place[row, step]])
        assert (batch.own[~batch.real] == 0).all()


def test_questions_met_together_stand_together():
    rng = np.random.default_rng(0)
    frames = {"student": [], "question": [], "response": []}
    for student in range(60):
        group = student % 3
        for question in rng.permutation(8):
            frames["student"].append(f"s{student}")
            frames["question"].append(f"{group}-{question}")
            frames["response"].append(int(rng.integers(2)))
    import polars as pl

    table = load(pl.DataFrame(frames))
    vocabulary = fit_vocabulary(table)
    neighbours = QuestionNeighbours(4, vocabulary)
    neighbours.fit(build(table, vocabulary))
    vectors = neighbours.table[1:]
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    group = np.array([name.split("-")[0] for name in vocabulary.questions])
    like = (vectors @ vectors.T).numpy()
    same = group[:, None] == group
    assert like[same].min() > like[~same].max() + 0.2
    assert (neighbours.table[0] == 0).all()


def test_neighbours_are_the_same_each_time(students):
    sequences, vocabulary = students
    tables = []
    for _ in range(2):
        neighbours = QuestionNeighbours(8, vocabulary)
        neighbours.fit(sequences)
        tables.append(neighbours.table)
    assert torch.equal(*tables)
