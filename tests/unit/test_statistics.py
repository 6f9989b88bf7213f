"""What training students tell of a question, against loops; the own group always left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kt_forecast.data.simulate import Simulation, simulate
from kt_forecast.data.tables import load
from kt_forecast.sequences.batching import Batches, chunks, collate
from kt_forecast.sequences.build import build, fit_vocabulary
from kt_forecast.tasks.statistics import (
    ANSWERS,
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


def test_counts_equal_a_loop(students):
    sequences, vocabulary = students
    rates = QuestionRates(vocabulary)
    rates.fit(sequences)
    question, response = sequences.question.numpy(), sequences.response.numpy()
    for index in range(1, len(vocabulary.questions) + 1):
        asked = question == index
        assert rates.question[index, ANSWERS] == asked.sum()
        assert rates.question[index, RIGHT] == response[asked].sum()


def shares(sequences, vocabulary):
    return QuestionRates(vocabulary).fit(sequences).own


def test_an_answer_moves_the_share_of_its_whole_group_and_of_no_other(students):
    sequences, vocabulary = students
    question, student = sequences.question.numpy(), of_students(sequences)
    base = shares(sequences, vocabulary)
    for place in (3, 50, 200):
        response = sequences.response.clone()
        response[place] = 1 - response[place]
        after = shares(replace(sequences, response=response), vocabulary)
        moved = (after - base)[:, RIGHT].numpy().nonzero()[0]
        assert place in moved
        assert set(question[moved]) == {question[place]}
        group = set(student[moved])
        asked_by_group = (question == question[place]) & np.isin(student, list(group))
        assert moved.tolist() == asked_by_group.nonzero()[0].tolist()
        assert len(group) < sequences.n_students


def test_what_a_training_step_is_told_does_not_move_with_its_own_answer(students):
    sequences, vocabulary = students
    question, student = sequences.question.numpy(), of_students(sequences)

    def told(of):
        rates = QuestionRates(vocabulary)
        fitted = rates.fit(of)
        return rates.question[of.question.long()][:, :2] - fitted.own[:, :2]

    base = told(sequences)
    for place in (3, 50, 200):
        response = sequences.response.clone()
        response[place] = 1 - response[place]
        after = told(replace(sequences, response=response))
        mine = (student == student[place]) & (question == question[place])
        assert torch.equal(after[torch.from_numpy(mine)], base[torch.from_numpy(mine)])
        assert not torch.equal(after, base)


def test_a_new_student_has_nothing_taken_out(students):
    sequences, vocabulary = students
    rates = QuestionRates(vocabulary)
    rates.fit(sequences)
    assert sequences.own is None
    batch = collate(sequences, chunks(sequences, None))
    assert batch.own is None
    known = rates.question[batch.question][..., ANSWERS]
    features, _ = rates(batch)
    told = features[..., 1] * rates.spread[1] + rates.centre[1]
    torch.testing.assert_close(told[batch.real], known.log1p()[batch.real])


def test_features_are_standardised_over_training_steps(students):
    sequences, vocabulary = students
    rates = QuestionRates(vocabulary)
    batch = collate(rates.fit(sequences), chunks(sequences, None))
    seen = rates(batch)[0][batch.real]
    torch.testing.assert_close(seen.mean(0), torch.zeros(4), atol=0.02, rtol=0)
    assert ((seen.std(0) - 1).abs() < 0.05).all()


def test_unknown_questions_are_told_by_their_concepts_alone(students):
    sequences, vocabulary = students
    rates = QuestionRates(vocabulary)
    rates.fit(sequences)
    batch = collate(sequences, chunks(sequences, None))
    nameless = batch.map(lambda x: x)
    nameless.question.zero_()
    features, expected = rates(nameless)
    raw = features * rates.spread + rates.centre
    torch.testing.assert_close(raw[..., 1], torch.zeros_like(expected))
    torch.testing.assert_close(raw[..., 3], torch.zeros_like(expected))
    torch.testing.assert_close(raw[..., 0], raw[..., 2])
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
