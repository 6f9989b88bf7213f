"""Every fitted baseline: causal to the bit, true to windows, restored as saved, worth having."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from kt_forecast import baselines, metrics
from kt_forecast.baselines import Baseline
from kt_forecast.baselines.bkt import BKT, BKTConfig
from kt_forecast.data.simulate import Simulation, simulate
from kt_forecast.data.splits import ByStudents, Role, split
from kt_forecast.data.tables import load
from kt_forecast.errors import InputError
from kt_forecast.sequences.build import build_role, fit_vocabulary
from kt_forecast.sequences.interactions import StudentSequences, Vocabulary

FITTED = [
    name
    for name in baselines.names()
    if isinstance(one := baselines.load(name), Baseline) and one.task == "knowledge_tracing"
]
WINDOWS = [(None, "steps"), (6, "steps"), (6, "rows")]


@pytest.fixture(scope="module")
def data():
    """Return simulated students, split, with bundles and questions of several concepts."""
    table = load(simulate(Simulation(students=120, mean_steps=40.0, questions=60, bundled=0.2)))
    roles = split(table, ByStudents(valid=0.2, test=0.3))
    vocabulary = fit_vocabulary(table, roles)
    wanted = (Role.TRAIN, Role.VALID, Role.TEST)
    train, valid, test = (build_role(table, vocabulary, roles, role) for role in wanted)
    return train, valid, test, vocabulary


@pytest.fixture(scope="module")
def fitted(data):
    train, valid, _, vocabulary = data
    return {name: unfitted(name).fit(train, valid, vocabulary) for name in FITTED}


def unfitted(name):
    baseline = baselines.load(name)
    return baseline.build(baseline.config())


def flipped(sequences, places):
    response = sequences.response.clone()
    response[places] = 1 - response[places]
    return replace(sequences, response=response)


def first_students(sequences, count):
    """Return the sequences of the first students alone."""
    steps = int(sequences.start[count])
    entries = int(sequences.concept_start[steps])
    return StudentSequences(
        start=sequences.start[: count + 1],
        student=sequences.student[:count],
        question=sequences.question[:steps],
        concept_start=sequences.concept_start[: steps + 1],
        concept=sequences.concept[:entries],
        response=sequences.response[:steps],
        event=sequences.event[:steps],
        seconds=None if sequences.seconds is None else sequences.seconds[:steps],
        extras=sequences.extras[:steps],
        row=sequences.row[:steps],
        scored=sequences.scored[:steps],
    )


def test_the_folder_is_the_registry():
    assert {"item_mean", "concept_mean", "logistic", "bkt"} <= set(FITTED)
    with pytest.raises(InputError, match="did you mean 'logistic'"):
        baselines.load("logistics")


@pytest.mark.parametrize(("history", "unit"), WINDOWS)
@pytest.mark.parametrize("name", FITTED)
def test_own_event_and_future_responses_change_nothing(name, history, unit, data, fitted):
    test = data[2]
    before = fitted[name].predict(test, history=history, unit=unit)
    student = int(torch.diff(test.start).argmax())
    begin, end = int(test.start[student]), int(test.start[student + 1])
    event = test.event[begin:end]
    for at in (0, 3, (end - begin) // 2):
        same_or_later = begin + torch.nonzero(event >= event[at])[:, 0]
        after = fitted[name].predict(flipped(test, same_or_later), history=history, unit=unit)
        unchanged = np.ones(test.n_steps, dtype=bool)
        unchanged[same_or_later] = event[same_or_later - begin] == event[at]
        unchanged[begin:end][: int((event < event[at]).sum())] = True
        assert (before[unchanged] == after[unchanged]).all()
        assert unchanged[begin + at]


@pytest.mark.parametrize("name", ["logistic", "bkt"])
def test_earlier_responses_do_change_predictions(name, data, fitted):
    test = data[2]
    before = fitted[name].predict(test)
    after = fitted[name].predict(flipped(test, test.start[:-1]))
    assert (before != after).sum() > test.n_steps / 4


@pytest.mark.parametrize("name", FITTED)
def test_bundled_neighbours_see_none_of_each_others_responses(name, data, fitted):
    test = data[2]
    student = torch.repeat_interleave(torch.arange(test.n_students), torch.diff(test.start))
    together = (torch.diff(test.event) == 0) & (torch.diff(student) == 0)
    pairs = torch.nonzero(together)[:, 0].tolist()
    assert len(pairs) > 20
    before = fitted[name].predict(test)
    for place in pairs[:20]:
        for other, mine in ((place, place + 1), (place + 1, place)):
            after = fitted[name].predict(flipped(test, [other]))
            assert after[mine] == before[mine]


@pytest.mark.parametrize("name", ["logistic", "bkt"])
def test_a_window_hides_what_lies_before_it(name, data, fitted):
    test = data[2]
    at = int(test.start[int(torch.diff(test.start).argmax())]) + 15
    for history, unit in WINDOWS[1:]:
        before = fitted[name].predict(test, history=history, unit=unit)
        beyond = torch.arange(at - 15, at - 5)
        after = fitted[name].predict(flipped(test, beyond), history=history, unit=unit)
        assert before[at] == after[at]
        assert (before != after).any()
    assert (fitted[name].predict(test)[at:] != before[at:]).any()


@pytest.mark.parametrize("name", FITTED)
def test_a_student_is_predicted_alike_alone_and_among_others(name, data, fitted):
    test = data[2]
    alone = first_students(test, 3)
    everyone = fitted[name].predict(test)[: alone.n_steps]
    np.testing.assert_allclose(fitted[name].predict(alone), everyone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FITTED)
def test_saved_and_restored_predicts_the_same_bits(name, data, fitted, tmp_path):
    save_file(fitted[name].arrays(), tmp_path / "arrays.safetensors")
    restored = unfitted(name).restore(load_file(tmp_path / "arrays.safetensors"))
    assert (restored.predict(data[2]) == fitted[name].predict(data[2])).all()


@pytest.mark.parametrize("name", FITTED)
def test_learns_from_scored_training_rows_alone(name, data, fitted):
    train, _, _, vocabulary = data
    # Nothing scored comes after a student's second half, so history does not bring it in either.
    middle = train.start[:-1] + torch.diff(train.start) // 2
    late = torch.arange(train.n_steps) >= middle.repeat_interleave(torch.diff(train.start))
    late &= torch.arange(train.n_steps) > 0
    half = replace(train, scored=~late)
    other = flipped(half, late)
    first, second = (unfitted(name).fit(s, None, vocabulary).arrays() for s in (half, other))
    for key, array in first.items():
        assert (array == second[key]).all()
    assert any((array != first[key]).any() for key, array in fitted[name].arrays().items())


@pytest.mark.parametrize("name", FITTED)
def test_validation_students_teach_nothing(name, data, fitted):
    train, valid, _, vocabulary = data
    other = flipped(valid, torch.arange(valid.n_steps))
    again = unfitted(name).fit(train, other, vocabulary)
    for key, array in fitted[name].arrays().items():
        assert (array == again.arrays()[key]).all()
    nothing = unfitted(name).fit(train, None, vocabulary)
    assert (nothing.predict(valid) == fitted[name].predict(valid)).all()


@pytest.mark.parametrize("name", FITTED)
def test_only_scored_steps_are_predicted(name, data, fitted):
    test = data[2]
    scored = torch.rand(test.n_steps, generator=torch.Generator().manual_seed(0)) < 0.5
    some = fitted[name].predict(replace(test, scored=scored))
    assert (np.isnan(some) == ~scored.numpy()).all()
    assert (some[scored] == fitted[name].predict(test)[scored]).all()


@pytest.mark.parametrize("name", FITTED)
def test_unknown_names_get_a_sensible_prediction(name, data, fitted):
    test = data[2]
    strange = replace(
        test, question=torch.zeros_like(test.question), concept=torch.zeros_like(test.concept)
    )
    p_correct = fitted[name].predict(strange)
    assert ((p_correct > 0.02) & (p_correct < 0.98)).all()
    bare = replace(strange, concept=strange.concept[:0], concept_start=0 * strange.concept_start)
    assert np.isfinite(fitted[name].predict(bare)).all()


@pytest.mark.parametrize("name", FITTED)
def test_beats_the_overall_share(name, data, fitted):
    train, _, test, _ = data
    response = test.response.numpy()
    share = np.full(test.n_steps, float(train.response.float().mean()))
    p_correct = fitted[name].predict(test)
    assert metrics.nll(response, p_correct) < metrics.nll(response, share) - 0.005
    assert metrics.auc(response, p_correct) > 0.55


def test_logistic_beats_item_mean_beats_concept_mean(data, fitted):
    response = data[2].response.numpy()
    loss = {name: metrics.nll(response, fitted[name].predict(data[2])) for name in FITTED}
    assert loss["logistic"] < loss["item_mean"] < loss["concept_mean"]


def test_item_mean_equals_counting_by_hand(data, fitted):
    train = data[0]
    share = float((train.response.sum() + 1) / (train.n_steps + 2))
    sets = torch.tensor_split(train.concept, train.concept_start[1:-1])
    for question in (1, 7):
        asked = (train.question == question).numpy()
        towards = []
        for concept in sets[int(np.flatnonzero(asked)[0])].tolist():
            having = np.array([concept in s for s in sets])
            right = float(train.response[having].sum())
            towards.append((right + 5 * share) / (having.sum() + 5))
        expected = (float(train.response[asked].sum()) + 5 * np.mean(towards)) / (asked.sum() + 5)
        found = fitted["item_mean"].predict(train)[asked]
        np.testing.assert_allclose(found, expected)


def test_item_mean_of_an_unknown_question_is_its_concepts_mean(data, fitted):
    train, _, test, vocabulary = data
    rare = train.question <= 10
    train = replace(train, question=torch.where(rare, 0, train.question))
    model = unfitted("item_mean").fit(train, None, vocabulary)
    unknown = replace(test, question=torch.zeros_like(test.question))
    expected = fitted["concept_mean"].predict(unknown)
    np.testing.assert_allclose(model.predict(unknown), expected)


def test_slopes_by_concept_and_recent_answers_fit_better(data):
    train, _, _, vocabulary = data
    response = train.response.numpy()
    baseline = baselines.load("logistic")

    def loss(**settings):
        model = baseline.build(baseline.config(**settings)).fit(train, None, vocabulary)
        return metrics.nll(response, model.predict(train))

    plain = loss(slopes=False, recent=())
    assert loss(slopes=True, recent=()) < plain - 1e-4
    assert loss(slopes=False, recent=(1, 4)) < plain - 1e-4


def test_logistic_stands_where_its_gradient_vanishes(data):
    """At the optimum the penalised score of every weight is nought."""
    train, _, _, vocabulary = data
    baseline = baselines.load("logistic")
    model = baseline.build(baseline.config(iterations=2000)).fit(train, None, vocabulary)
    features = model.features(train, None, "steps")
    residual = model.predict(train) - train.response.numpy()
    score = features.T @ residual + model.config.penalty * model.weight
    typical = np.abs(features.T @ (0.5 - train.response.numpy())).max()
    assert np.abs(score).max() < 0.01 * typical
    assert abs(residual.sum()) < 0.01 * train.n_steps


def chains(chances, students=1500, answers=12, seed=0):
    """Return sequences drawn from the model itself, each student on every concept in turn."""
    random = np.random.default_rng(seed)
    concepts = len(chances)
    known = random.random((students, concepts)) < chances[:, 0]
    response = np.empty((students, concepts, answers), dtype=np.int32)
    for t in range(answers):
        right = np.where(known, 1 - chances[:, 3], chances[:, 2])
        response[:, :, t] = random.random((students, concepts)) < right
        known |= random.random((students, concepts)) < chances[:, 1]
    n = response.size
    per_student = concepts * answers
    concept = np.tile(np.repeat(np.arange(1, concepts + 1), answers), students)
    return StudentSequences(
        start=torch.arange(0, n + 1, per_student),
        student=torch.arange(students, dtype=torch.int32),
        question=torch.zeros(n, dtype=torch.int32),
        concept_start=torch.arange(n + 1),
        concept=torch.from_numpy(concept.astype(np.int32)),
        response=torch.from_numpy(response.reshape(-1)),
        event=torch.arange(per_student, dtype=torch.int32).repeat(students),
        seconds=None,
        extras=torch.zeros(n, 0),
        row=torch.arange(n, dtype=torch.int32),
        scored=torch.ones(n, dtype=torch.bool),
    )


TRUE = np.array([[0.2, 0.2, 0.15, 0.08], [0.6, 0.1, 0.3, 0.2], [0.1, 0.35, 0.25, 0.05]])


def test_bkt_recovers_the_chances_that_made_the_data():
    config = BKTConfig(strength=1.0, iterations=300, enough=1e-9)
    model = BKT(config).fit(chains(TRUE), None, Vocabulary((), ("a", "b", "c")))
    np.testing.assert_allclose(model.chances[1:], TRUE, atol=0.08)
    unbiased = np.abs(model.chances[1:] - TRUE).mean()
    assert unbiased < 0.03


@pytest.mark.parametrize("strength", [0.0, 10.0])
def test_bkt_likelihood_never_falls(strength, data):
    train, _, _, vocabulary = data
    model = BKT(BKTConfig(strength=strength, enough=0.0)).fit(train, None, vocabulary)
    steps = np.diff(model.progress)
    assert len(steps) > 10
    assert (steps >= -1e-9 * abs(model.progress[0])).all()
    assert model.progress[-1] > model.progress[0]


def test_bkt_cannot_invert_the_meaning_of_knowing():
    """Students who get worse with practice tempt the fit to call not knowing knowing."""
    sequences = chains(TRUE[:1], students=300)
    worse = replace(sequences, response=1 - sequences.response)
    model = BKT(BKTConfig(max_guess=0.1, max_slip=0.1)).fit(worse, None, Vocabulary((), ("a",)))
    assert (model.chances[:, 2:] <= 0.1).all()
    again = replace(worse, response=torch.ones_like(worse.response))
    p_correct = model.predict(again)[:12]
    assert (np.diff(p_correct) >= 0).all()


def test_coin_flips_teach_nothing(data):
    from kt_forecast.evaluation import coin_flip, evaluate

    train, valid, test, vocabulary = data
    train, valid, test = (coin_flip(s, seed) for seed, s in enumerate((train, valid, test)))
    for name in FITTED:
        model = unfitted(name).fit(train, valid, vocabulary)
        auc = evaluate(model, test, resamples=200).metrics["auc"]
        assert auc.low - 0.01 < 0.5 < auc.high + 0.01
