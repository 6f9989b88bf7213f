"""Fitted baselines on the published ASSISTments 2009 split, beside figures found elsewhere."""

import os
from pathlib import Path

import pytest

from kt_forecast import baselines
from kt_forecast.data.splits import ByFolds, Role, split
from kt_forecast.data.tables import load
from kt_forecast.evaluation import coin_flip, compare, evaluate
from kt_forecast.sequences.build import build_role, fit_vocabulary

DATA = Path(os.environ.get("KT_FORECAST_DATA", Path(__file__).parents[3] / "shared" / "data"))
ASSIST2009 = DATA / "kt" / "assist2009"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ASSIST2009.is_dir(), reason="the data set assist2009 is not here"),
]

QUESTION_MEAN = 0.6919
BEST_LR, BEST_LR_BETWEEN_FOLDS = 0.7782, 0.0010
"""AUC over the same test students: question means, and a causal logistic regression."""


@pytest.fixture(scope="module")
def data():
    table = load(ASSIST2009)
    roles = split(table, ByFolds(fold=0))
    vocabulary = fit_vocabulary(table, roles)
    wanted = (Role.TRAIN, Role.VALID, Role.TEST)
    return *(build_role(table, vocabulary, roles, role) for role in wanted), vocabulary


def fitted(name, data, **settings):
    train, valid, _, vocabulary = data
    baseline = baselines.load(name)
    return baseline.build(baseline.config(**settings)).fit(train, valid, vocabulary)


def test_pykt_scores_as_many_questions_as_published(data):
    scores = evaluate(fitted("concept_mean", data), data[2], "pykt", resamples=0)
    assert scores.n_rows == 52_378
    assert scores.n_students == 770


def test_question_mean_reaches_the_published_score(data):
    scores = evaluate(fitted("item_mean", data), data[2], "pykt", resamples=0)
    assert scores.metrics["auc"].value == pytest.approx(QUESTION_MEAN, abs=0.003)


def test_logistic_reaches_the_published_score_and_recent_answers_improve_it(data):
    published = evaluate(fitted("logistic", data, recent=()), data[2], resamples=0)
    assert published.metrics["auc"].value > BEST_LR - 2 * BEST_LR_BETWEEN_FOLDS
    recent = evaluate(fitted("logistic", data), data[2], resamples=0)
    gain = compare(recent, published, resamples=200)
    assert gain["auc"].low > 0.0
    assert gain["nll"].high < 0.0


def test_no_baseline_finds_anything_in_coin_flips(data):
    train, valid, test, vocabulary = data
    flipped = (coin_flip(train, 0), coin_flip(valid, 1), coin_flip(test, 2), vocabulary)
    for name in ("item_mean", "bkt", "logistic"):
        auc = evaluate(fitted(name, flipped), flipped[2], resamples=200).metrics["auc"]
        assert auc.low - 0.002 < 0.5 < auc.high + 0.002
