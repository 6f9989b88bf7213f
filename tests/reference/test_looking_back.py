"""Windows, counts and knowledge tracing in arrays against loops over rows."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch

from kt_forecast.baselines import bkt, logistic
from kt_forecast.sequences.batching import sliding
from kt_forecast.sequences.counts import (
    concept_entries,
    looked_back,
    mean_of_entries,
    sums_between,
)
from kt_forecast.sequences.interactions import StudentSequences

WINDOWS = [(None, "steps"), (1, "steps"), (7, "steps"), (7, "rows"), (2, "rows"), (999, "rows")]


def drawn(seed=0, lengths=(1, 40, 9, 25), questions=6, concepts=4):
    """Return sequences with bundles, empty concept sets and unknown names."""
    random = np.random.default_rng(seed)
    n = sum(lengths)
    start = np.concatenate([[0], np.cumsum(lengths)])
    sets = [
        np.sort(random.choice(concepts + 1, size=random.integers(0, 4), replace=False))
        for _ in range(n)
    ]
    event = np.concatenate([np.cumsum(np.append(0, random.random(k - 1) < 0.7)) for k in lengths])
    return StudentSequences(
        start=torch.from_numpy(start),
        student=torch.arange(len(lengths), dtype=torch.int32),
        question=torch.from_numpy(random.integers(0, questions + 1, n).astype(np.int32)),
        concept_start=torch.from_numpy(np.concatenate([[0], np.cumsum([len(s) for s in sets])])),
        concept=torch.from_numpy(np.concatenate(sets).astype(np.int32)),
        response=torch.from_numpy(random.integers(0, 2, n).astype(np.int32)),
        event=torch.from_numpy(event.astype(np.int32)),
        seconds=None,
        extras=torch.zeros(n, 0),
        row=torch.arange(n, dtype=torch.int32),
        scored=torch.ones(n, dtype=torch.bool),
    )


def concepts_of(sequences, place):
    low, high = sequences.concept_start[place], sequences.concept_start[place + 1]
    return sequences.concept[low:high].tolist()


def visible(sequences, place, history, unit):
    """Return the places that a step may look back on, by walking back one step at a time."""
    start = sequences.start.tolist()
    begin = max(s for s in start[:-1] if s <= place)
    cost = [
        max(1, len(concepts_of(sequences, i))) if unit == "rows" else 1 for i in range(place + 1)
    ]
    spent, seen = cost[place], []
    for i in range(place - 1, begin - 1, -1):
        spent += cost[i]
        if history is not None and spent > history:
            break
        if sequences.event[i] < sequences.event[place]:
            seen.append(i)
    return seen[::-1]


@pytest.mark.parametrize(("history", "unit"), WINDOWS)
def test_looked_back_equals_walking_back(history, unit):
    sequences = drawn()
    first, stop = looked_back(sequences, history, unit)
    for place in range(sequences.n_steps):
        assert list(range(first[place], stop[place])) == visible(sequences, place, history, unit)


@pytest.mark.parametrize(("history", "unit"), WINDOWS[1:])
def test_looked_back_equals_the_pieces_that_networks_are_shown(history, unit):
    sequences = drawn()
    first, stop = looked_back(sequences, history, unit)
    pieces = sliding(sequences, history, unit)
    found = 0
    for start, length, scored_from in zip(
        pieces.start, pieces.length, pieces.scored_from, strict=True
    ):
        for place in range(start + scored_from, start + length):
            assert first[place] == min(start, stop[place])
            found += 1
    assert found == sequences.n_steps


@pytest.mark.parametrize("last", [None, 1, 3])
@pytest.mark.parametrize(("history", "unit"), WINDOWS)
def test_sums_equal_a_loop(history, unit, last):
    sequences = drawn(seed=1)
    first, stop = looked_back(sequences, history, unit)
    step, concept = concept_entries(sequences, empty=True)
    amount = np.stack([sequences.response.numpy(), np.ones(sequences.n_steps)], 1).astype(float)
    sums = sums_between(concept, step, amount[step], first[step], stop[step], last=last)
    for entry, (place, name) in enumerate(zip(step, concept, strict=True)):
        seen = visible(sequences, place, history, unit)
        on_name = [other for other in seen if name in (concepts_of(sequences, other) or [0])]
        latest = on_name if last is None else on_name[-last:]
        assert (sums[entry] == amount[latest].sum(0)).all()


def test_mean_of_entries_with_a_default():
    means = mean_of_entries(np.array([0, 0, 2]), np.array([1.0, 2.0, 5.0]), 9.0, 3)
    assert means.tolist() == [1.5, 9.0, 5.0]


@pytest.mark.parametrize("recent", [(), (1, 3)])
@pytest.mark.parametrize(("history", "unit"), WINDOWS)
def test_logistic_features_equal_counting_by_hand(history, unit, recent):
    sequences = drawn(seed=4)
    model = logistic.Logistic(logistic.LogisticConfig(recent=recent))
    model.sizes = (7, 5)
    rows = model.features(sequences, history, unit).toarray()
    for place in range(sequences.n_steps):
        seen = visible(sequences, place, history, unit)
        question = int(sequences.question[place])
        concepts = concepts_of(sequences, place)

        def counted(matching, last=None):
            right = [int(sequences.response[i]) for i in matching]
            right = right if last is None else right[-last:]
            return np.log1p([sum(right), len(right) - sum(right)])

        on = {c: [i for i in seen if c in concepts_of(sequences, i)] for c in concepts}
        asked = [i for i in seen if sequences.question[i] == question] if question else []
        expected = [np.arange(7) == question if question else np.zeros(7)]
        expected += [np.array([c in concepts and c > 0 for c in range(5)], dtype=float)]
        for last in (None, *recent):
            known = [counted(on[c], last) if c else np.zeros(2) for c in concepts]
            expected += [np.mean(known, axis=0) if known else np.zeros(2)]
            expected += [counted(asked, last), counted(seen, last)]
        for outcome in (0, 1):
            of_each = [
                counted(on[c])[outcome] / len(concepts) if c and c in concepts else 0.0
                for c in range(5)
            ]
            expected.append(np.array(of_each))
        np.testing.assert_allclose(rows[place], np.concatenate(expected), atol=1e-12)


@pytest.mark.parametrize(("history", "unit"), WINDOWS)
def test_knowing_equals_filtering_one_answer_at_a_time(history, unit):
    sequences = drawn(seed=2)
    random = np.random.default_rng(0)
    model = bkt.BKT(bkt.BKTConfig())
    model.chances = random.uniform(0.05, 0.45, size=(5, 4))
    step, concept, known = model.knowing(sequences, history=history, unit=unit)
    for place, name, found in zip(step, concept, known, strict=True):
        prior, learn, guess, slip = model.chances[name]
        expected = prior
        for other in visible(sequences, place, history, unit):
            if name not in (concepts_of(sequences, other) or [0]):
                continue
            right = sequences.response[other] == 1
            if_known, if_not = (1 - slip, guess) if right else (slip, 1 - guess)
            expected = expected * if_known / (expected * if_known + (1 - expected) * if_not)
            expected += (1 - expected) * learn
        assert found == pytest.approx(expected, abs=1e-12)


def test_expectations_equal_summing_over_every_path():
    """Knowing is an arbitrary path of 0 and 1 here; impossible ones have chance nought."""
    sequences = drawn(seed=3, lengths=(6, 1, 7), concepts=2)
    chances = np.random.default_rng(1).uniform(0.1, 0.4, size=(3, 4))
    likelihood, yes, times = bkt._Chains.of(sequences).expect(chances)
    expected_yes, expected_times, expected_likelihood = np.zeros((3, 4)), np.zeros((3, 4)), 0.0
    for low, high in zip(sequences.start[:-1], sequences.start[1:], strict=True):
        for name in range(3):
            prior, learn, guess, slip = chances[name]
            answers = [
                int(sequences.response[i])
                for i in range(low, high)
                if name in (concepts_of(sequences, i) or [0])
            ]
            if not answers:
                continue
            weights, paths = [], list(product((0, 1), repeat=len(answers)))
            for path in paths:
                weight = prior if path[0] else 1 - prior
                for before, after in pairwise(path):
                    weight *= (1.0 if after else 0.0) if before else (learn if after else 1 - learn)
                for knows, right in zip(path, answers, strict=True):
                    chance = 1 - slip if knows else guess
                    weight *= chance if right else 1 - chance
                weights.append(weight)
            expected_likelihood += np.log(sum(weights))
            for path, weight in zip(paths, np.array(weights) / sum(weights), strict=True):
                moves = list(pairwise(path))
                expected_yes[name] += weight * np.array(
                    [
                        path[0],
                        sum(move == (0, 1) for move in moves),
                        sum(r for k, r in zip(path, answers, strict=True) if not k),
                        sum(1 - r for k, r in zip(path, answers, strict=True) if k),
                    ]
                )
                expected_times[name] += weight * np.array(
                    [1, sum(m[0] == 0 for m in moves), len(path) - sum(path), sum(path)]
                )
    assert likelihood == pytest.approx(expected_likelihood)
    np.testing.assert_allclose(yes, expected_yes, atol=1e-12)
    np.testing.assert_allclose(times, expected_times, atol=1e-12)
