"""Metrics against scikit-learn, brute force and their own promises."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from kt_forecast import metrics
from kt_forecast.metrics import METRICS, Answers


def rows(n=300, students=12, seed=0, *, decimals=1):
    """Return answers with many ties (few decimals), uneven students and concept sets."""
    random = np.random.default_rng(seed)
    student = np.sort(random.integers(students, size=n) ** 2 // students) + 100
    p_correct = random.random(n).round(decimals)
    response = (random.random(n) < 0.3 + 0.5 * p_correct).astype(np.int64)
    size = random.integers(0, 4, size=n)
    start = np.concatenate([[0], np.cumsum(size)])
    return Answers(response, p_correct, student, start, random.integers(1, 6, size=start[-1]))


def pairs_won(response, p_correct, group_of_row):
    """Return won and all pairs by looking at every pair of rows that share a group."""
    won = total = 0.0
    for i, j in itertools.product(range(len(response)), repeat=2):
        if response[i] == 1 and response[j] == 0:
            shared = len(group_of_row[i] & group_of_row[j])
            total += shared
            won += shared * ((p_correct[i] > p_correct[j]) + 0.5 * (p_correct[i] == p_correct[j]))
    return won, total


def copies(answers, times):
    """Return the answers in which each student stands as often as drawn, each copy a new one."""
    names = np.unique(answers.student)
    picked, owner = [], []
    for name, count in zip(names, times.astype(int), strict=True):
        at = np.flatnonzero(answers.student == name)
        for _ in range(count):
            picked.append(at)
            owner.append(np.full(len(at), len(owner)))
    picked = np.concatenate(picked)
    starts = answers.concept_start
    sets = [answers.concept[starts[i] : starts[i + 1]] for i in picked]
    start = np.concatenate([[0], np.cumsum([len(s) for s in sets])])
    return Answers(
        answers.response[picked],
        answers.p_correct[picked],
        np.concatenate(owner),
        start,
        np.concatenate(sets).astype(np.int64),
    )


@pytest.mark.parametrize("decimals", [1, 9])
def test_equal_scikit_learn(decimals):
    a = rows(decimals=decimals)
    r, p = a.response, a.p_correct
    assert metrics.auc(r, p) == pytest.approx(sk.roc_auc_score(r, p), abs=1e-12)
    assert metrics.accuracy(r, p) == pytest.approx(sk.accuracy_score(r, p >= 0.5))
    assert metrics.brier(r, p) == pytest.approx(sk.brier_score_loss(r, p))
    assert metrics.rmse(r, p) == pytest.approx(np.sqrt(sk.brier_score_loss(r, p)))
    inside = p.clip(1e-3, 1 - 1e-3)
    assert metrics.nll(r, inside) == pytest.approx(sk.log_loss(r, inside))


def test_auc_within_groups_equals_every_pair():
    a = rows(n=150)
    by_student = [{s} for s in a.student]
    won, total = pairs_won(a.response, a.p_correct, by_student)
    assert metrics.auc_within_student(a.response, a.p_correct, a.student) == won / total
    starts = a.concept_start
    # A concept listed twice in one row is two entries, as in the flat layout.
    unique = [set(a.concept[starts[i] : starts[i + 1]]) for i in range(len(a.response))]
    start = np.concatenate([[0], np.cumsum([len(s) for s in unique])])
    flat = np.array([c for s in unique for c in sorted(s)])
    won, total = pairs_won(a.response, a.p_correct, unique)
    assert metrics.auc_within_concept(a.response, a.p_correct, start, flat) == won / total


def test_ece_equals_a_loop_over_bins():
    a = rows(decimals=9)
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (a.p_correct >= low) & (a.p_correct < low + 0.1)
        gap = a.p_correct[inside].mean() - a.response[inside].mean()
        expected += inside.mean() * abs(gap)
    assert metrics.ece(a.response, a.p_correct) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["auc", "accuracy", "nll", "brier", "rmse", "ece"])
def test_who_answered_does_not_matter_to_a_pooled_metric(name):
    a = rows()
    alone = getattr(metrics, name)(a.response, a.p_correct)
    assert metrics.score(a, resamples=0)[name].value == pytest.approx(alone, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_weighted_metric_equals_metric_of_copied_students(name):
    a = rows()
    random = np.random.default_rng(3)
    n = a.n_students
    times = np.stack([np.bincount(random.integers(n, size=n), minlength=n) for _ in range(5)])
    weighted = METRICS[name](a, times.astype(float))
    for row, value in zip(times, weighted, strict=True):
        copied = copies(a, row)
        once = METRICS[name](copied, np.ones((1, copied.n_students)))[0]
        assert value == pytest.approx(once, abs=1e-12)


def test_undefined_is_nan_and_defined_is_not():
    ones = np.ones(4, dtype=np.int64)
    p = np.array([0.1, 0.2, 0.3, 0.9])
    assert np.isnan(metrics.auc(ones, p))
    assert np.isnan(metrics.auc_within_student(np.array([0, 1, 0, 1]), p, np.arange(4)))
    a = Answers(ones, p, np.arange(4))
    scores = metrics.score(a, resamples=20)
    assert np.isnan([scores["auc"].value, scores["auc"].low, scores["auc"].high]).all()
    assert np.isnan(scores["auc_within_concept"].value)
    assert scores["accuracy"].value == 0.25
    none = Answers(ones[:0], p[:0], ones[:0])
    assert all(np.isnan(e.value) for e in metrics.score(none, resamples=5).values())


def test_certain_mistake_has_a_finite_log_loss():
    value = metrics.nll(np.array([0, 1]), np.array([1.0, 1.0]))
    assert 5 < value < 20


@pytest.mark.parametrize("p", [np.nan, -0.1, 1.1])
def test_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match="row 1"):
        Answers(np.array([0, 1]), np.array([0.5, p]), np.array([0, 0]))


def test_refuses_other_responses():
    with pytest.raises(ValueError, match="0 or 1"):
        Answers(np.array([0, 2]), np.array([0.5, 0.5]), np.array([0, 0]))


def test_interval_covers_the_truth_of_dependent_answers():
    """Students differ, so answers cluster: the interval must be as wide as between students."""
    covered = 0
    trials = 120
    for seed in range(trials):
        random = np.random.default_rng(seed)
        ability = random.choice([0.2, 0.9], size=40)
        student = np.repeat(np.arange(40), 25)
        response = (random.random(1000) < ability[student]).astype(np.int64)
        a = Answers(response, np.ones(1000), student)
        e = metrics.score(a, resamples=200, seed=seed)["accuracy"]
        covered += e.low <= 0.55 <= e.high
    low, high = stats.binom.interval(0.999, trials, 0.93)
    assert low <= covered <= high


def test_paired_interval_is_narrower_than_two_apart():
    a = rows(n=2000, students=60, decimals=9)
    random = np.random.default_rng(1)
    other = (a.p_correct + random.normal(0, 0.02, len(a.p_correct))).clip(0, 1)
    first = metrics.score(a)["auc"]
    gap = metrics.compare(a, other)["auc"]
    second = metrics.auc(a.response, other)
    assert gap.value == pytest.approx(first.value - second)
    assert gap.low <= gap.value <= gap.high
    assert gap.high - gap.low < 0.5 * (first.high - first.low)
    assert metrics.compare(a, a.p_correct)["nll"] == metrics.Estimate(0.0, 0.0, 0.0)


def test_same_seed_same_interval_in_any_block_size(monkeypatch):
    a = rows()
    whole = metrics.score(a, resamples=50, seed=5)
    assert whole == metrics.score(a, resamples=50, seed=5)
    assert whole != metrics.score(a, resamples=50, seed=6)
    monkeypatch.setattr(metrics.tracing, "CELLS_AT_ONCE", 7 * len(a.response))
    assert metrics.score(a, resamples=50, seed=5) == whole
