"""Tables to sequences, against a plain loop over students."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch

from kt_forecast.data.check import check
from kt_forecast.data.readers import RawTable
from kt_forecast.data.simulate import Simulation, simulate
from kt_forecast.data.splits import ByFraction, ByStudents, ByTime, Role, split
from kt_forecast.data.tables import load
from kt_forecast.errors import InputError
from kt_forecast.schema import (
    ATTEMPTS,
    CONCEPTS,
    ELAPSED,
    P_CORRECT,
    QUESTION,
    RESPONSE,
    STUDENT,
    TIME,
)
from kt_forecast.sequences.build import build, build_role, fit_vocabulary
from kt_forecast.sequences.interactions import Vocabulary


@pytest.fixture(scope="module")
def table():
    raw = simulate(Simulation(students=40, mean_steps=20, questions=400, seed=7, bundled=0.2))
    return load(raw.sample(fraction=1.0, shuffle=True, seed=2), name="simulated")


def by_hand(table, vocabulary: Vocabulary, student: int) -> dict[str, list]:
    """The sequence of one student, step by step."""
    rows = table.frame.with_row_index("row").filter(pl.col(STUDENT) == student).to_dicts()
    questions = {name: i + 1 for i, name in enumerate(vocabulary.questions)}
    concepts = {name: i + 1 for i, name in enumerate(vocabulary.concepts)}
    made = {key: [] for key in ("question", "concepts", "response", "event", "seconds", "row")}
    event, opened, before = -1, None, None
    for row in rows:
        if row[TIME] != opened or not table.bundled:
            event, before, opened = event + 1, opened, row[TIME]
        made["question"].append(questions.get(table.questions[row[QUESTION]], 0))
        made["concepts"].append([concepts.get(table.concepts[c], 0) for c in row[CONCEPTS]])
        made["response"].append(row[RESPONSE])
        made["event"].append(event)
        made["seconds"].append(0.0 if before is None else (row[TIME] - before) / 1000)
        made["row"].append(row["row"])
    return made


def test_sequences_are_what_a_loop_over_students_gives(table):
    made_split = split(table, ByStudents())
    vocabulary = fit_vocabulary(table, made_split)
    made = build(table, vocabulary)
    assert made.student.tolist() == list(range(len(table.students)))
    assert (made.event.diff() == 0).sum() > 20
    for place, student in enumerate(made.student.tolist()):
        low, high = made.start[place], made.start[place + 1]
        expected = by_hand(table, vocabulary, student)
        assert made.question[low:high].tolist() == expected["question"]
        assert made.response[low:high].tolist() == expected["response"]
        assert made.event[low:high].tolist() == expected["event"]
        assert made.row[low:high].tolist() == expected["row"]
        assert made.seconds[low:high].tolist() == pytest.approx(expected["seconds"])
        offsets = made.concept_start[low : high + 1].tolist()
        sets = [made.concept[a:b].tolist() for a, b in pairwise(offsets)]
        assert sets == expected["concepts"]


def test_types(table):
    made = build(table, fit_vocabulary(table, extras=[ELAPSED]))
    assert {made.start.dtype, made.concept_start.dtype} == {torch.int64}
    for part in (made.question, made.concept, made.response, made.event, made.row, made.student):
        assert part.dtype == torch.int32
    assert made.extras.dtype == made.seconds.dtype == torch.float32
    assert made.extras[:, 0].tolist() == table.frame[ELAPSED].to_list()
    assert made.scored.all()


def test_the_vocabulary_knows_training_names_only(table):
    made = split(table, ByStudents(test=0.5))
    vocabulary = fit_vocabulary(table, made)
    train = table.frame.filter(pl.Series(made.scored(Role.TRAIN)))
    seen = set(table.questions.gather(train[QUESTION]).to_list())
    assert set(vocabulary.questions) == seen
    assert len(seen) < len(table.questions)
    assert list(vocabulary.questions) == sorted(vocabulary.questions)
    test = build_role(table, vocabulary, made, Role.TEST)
    assert (test.question == 0).any()
    assert int(test.question.max()) <= len(vocabulary.questions)
    assert fit_vocabulary(table, made.scored(Role.TRAIN)) == vocabulary


def test_equal_times_are_no_bundle_where_times_are_coarse(table):
    names = pl.Series(range(len(table.students)))
    raw = table.frame.with_columns(pl.col(STUDENT).replace_strict(names, table.students))
    coarse = check(RawTable(raw.lazy(), "t", bundled=False), "coarse", repeats="keep")
    made = build(coarse, fit_vocabulary(coarse))
    within = torch.ones(made.n_steps, dtype=torch.bool)
    within[made.start[:-1]] = False
    assert (made.event.diff()[within[1:]] == 1).all()
    assert (made.seconds[~within] == 0).all()


def test_without_times_every_step_is_an_event():
    made = load(pl.DataFrame({STUDENT: [1, 1, 2], QUESTION: [1, 2, 1], RESPONSE: [1, 0, 1]}))
    sequences = build(made, fit_vocabulary(made))
    assert sequences.seconds is None
    assert sequences.event.tolist() == [0, 1, 0]
    assert sequences.concept.tolist() == []
    assert sequences.concept_start.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("settings", [ByTime(), ByFraction()], ids=lambda s: s.kind)
def test_earlier_rows_of_a_test_student_are_history(table, settings):
    made = split(table, settings)
    vocabulary = fit_vocabulary(table, made)
    roles = {role: build_role(table, vocabulary, made, role) for role in list(Role)[:3]}
    for role, sequences in roles.items():
        rows = sequences.row.numpy()
        assert (sequences.scored.numpy() == made.scored(role)[rows]).all()
        assert made.role.to_numpy()[rows].max() <= role
        assert int(sequences.scored.sum()) == int(made.scored(role).sum())
    assert roles[Role.TRAIN].scored.all()
    assert not roles[Role.TEST].scored.all()
    student = table.frame[STUDENT].to_numpy()
    tested = np.unique(student[made.scored(Role.TEST)])
    assert roles[Role.TEST].student.tolist() == tested.tolist()
    assert roles[Role.TEST].n_steps == int(np.isin(student, tested).sum())


def test_extras_must_be_known_and_recorded_with_the_answer(table):
    for name in (ATTEMPTS, RESPONSE, P_CORRECT):
        with pytest.raises(
            InputError, match=f"no answer-side column '{name}'; accepted are elapsed"
        ):
            fit_vocabulary(table, extras=[name])
    other = Vocabulary(questions=("1",), concepts=("1",), extras=(ATTEMPTS,))
    with pytest.raises(InputError, match="has no column 'attempts', which the model reads"):
        build(table, other)


def test_nothing_to_score_is_refused(table):
    nothing = np.zeros(len(table), dtype=bool)
    with pytest.raises(InputError, match="no row is to be scored"):
        build(table, fit_vocabulary(table), scored=nothing)
