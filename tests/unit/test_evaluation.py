"""Protocols: what is shown, what is scored, once each; and what the scores say."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from kt_forecast import baselines, metrics
from kt_forecast.data.simulate import Simulation, simulate
from kt_forecast.data.tables import load
from kt_forecast.errors import InputError
from kt_forecast.evaluation import (
    PROTOCOLS,
    Rules,
    by_answers_seen,
    calibration,
    coin_flip,
    compare,
    evaluate,
)
from kt_forecast.metrics import Answers
from kt_forecast.sequences.batching import collate, windows
from kt_forecast.sequences.build import build, fit_vocabulary
from kt_forecast.sequences.collect import Collector
from kt_forecast.sequences.counts import looked_back
from kt_forecast.tasks.knowledge_tracing import Tracer, TracingConfig
from kt_forecast.tasks.prediction import stream
from kt_forecast.zoo import load as load_system

SIMULATED = Simulation(students=40, mean_steps=30.0, questions=40, bundled=0.2)


@pytest.fixture(scope="module")
def table():
    return load(simulate(SIMULATED))


@pytest.fixture(scope="module")
def vocabulary(table):
    return fit_vocabulary(table)


@pytest.fixture(scope="module")
def sequences(table, vocabulary):
    return build(table, vocabulary)


class Spy:
    """Predicts a number of its own for each place and remembers what it was asked."""

    def __init__(self, change=lambda p: p):
        self.change = change
        self.asked = []

    def predict(self, sequences, *, history=None, unit="steps"):
        self.asked.append((history, unit, sequences.scored.sum().item()))
        p = (np.arange(sequences.n_steps) % 97 + 1) / 100
        return self.change(np.where(sequences.scored.numpy(), p, np.nan))


def test_full_scores_every_interaction_of_the_table_once(table, sequences):
    scores = evaluate(Spy(), sequences, resamples=10)
    frame = scores.predictions
    assert scores.n_rows == len(table) == frame.height
    assert sorted(frame["row"].to_list()) == list(range(len(table)))
    assert scores.n_students == frame["student"].n_unique() == sequences.n_students
    joined = table.frame.with_row_index("row").join(
        frame.with_columns(pl.col("row").cast(pl.UInt32)), on="row"
    )
    assert (joined["response"] == joined["response_right"]).all()
    assert (joined["student"] == joined["student_right"]).all()


def test_pykt_shows_200_concept_rows_and_leaves_first_steps_out(sequences):
    spy = Spy()
    scores = evaluate(spy, sequences, "pykt", resamples=0)
    assert spy.asked == [(200, "rows", sequences.n_steps - sequences.n_students)]
    places = set(range(sequences.n_steps)) - set(sequences.start[:-1].tolist())
    assert scores.predictions["row"].to_list() == sorted(places)


def test_cold_start_scores_answers_before_which_few_were_seen(sequences):
    scores = evaluate(Spy(), sequences, "cold_start", resamples=0)
    begin, stop = looked_back(sequences)
    assert scores.n_rows == int((stop - begin < 10).sum())
    assert scores.predictions["answers_seen"].max() == 9
    of_my_own = evaluate(Spy(), sequences, Rules(description="two", answers=2), resamples=0)
    assert of_my_own.predictions["answers_seen"].max() == 1


def test_history_only_steps_are_shown_but_not_scored(sequences):
    scored = torch.arange(sequences.n_steps) % 3 == 0
    scores = evaluate(Spy(), replace(sequences, scored=scored), resamples=0)
    assert scores.predictions["row"].to_list() == torch.nonzero(scored)[:, 0].tolist()


def test_a_step_left_out_or_added_is_refused(sequences):
    def leave_out(p):
        p[5] = np.nan
        return p

    with pytest.raises(RuntimeError, match="place 5 was predicted 0 times instead of once"):
        evaluate(Spy(leave_out), sequences)

    def add(p):
        p[0] = 0.5
        return p

    with pytest.raises(RuntimeError, match="place 0 was predicted 1 times instead of never"):
        evaluate(Spy(add), sequences, "pykt")


def test_a_row_that_stands_twice_in_the_sequences_is_refused(sequences):
    row = sequences.row.clone()
    row[7] = row[3]
    with pytest.raises(RuntimeError, match="row 3 of the table is scored more than once"):
        evaluate(Spy(), replace(sequences, row=row))


def test_collector_refuses_a_place_twice(sequences):
    collected = Collector(sequences.scored.numpy())
    batches = list(windows(sequences, 5, steps_per_batch=64))
    for batch in batches:
        collected.add(batch, torch.full(batch.shape, 0.5))
    assert (collected.result() == 0.5).all()
    collected.add(batches[0], torch.full(batches[0].shape, 0.5))
    with pytest.raises(RuntimeError, match="predicted 2 times"):
        collected.result()


def test_unknown_protocol_names_the_nearest(sequences):
    with pytest.raises(InputError, match="did you mean 'cold_start'"):
        evaluate(Spy(), sequences, "cold-start")


def test_stream_of_a_predictor_without_state_is_refused(sequences):
    with pytest.raises(InputError, match="Spy keeps no state"):
        evaluate(Spy(), sequences, "stream")


def test_nothing_to_score_is_refused(sequences):
    none = torch.zeros(sequences.n_steps, dtype=torch.bool)
    with pytest.raises(InputError, match="scores none"):
        evaluate(Spy(), replace(sequences, scored=none))


@pytest.mark.parametrize("scheme", ["two_stream", "shifted"])
def test_streaming_equals_one_pass_over_whole_histories(scheme):
    table = load(simulate(Simulation(students=9, mean_steps=8.0, questions=12, bundled=0.3)))
    vocabulary = fit_vocabulary(table)
    sequences = build(table, vocabulary)
    torch.manual_seed(0)
    system = load_system("gpt")
    tracer = Tracer(
        system, system.config(width=16, heads=2), TracingConfig(scheme=scheme), vocabulary
    ).eval()
    for parameter in tracer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    streamed = stream(tracer.train(), sequences, segment=1, steps_per_batch=4)
    assert tracer.training
    tracer.eval()
    collected = Collector(sequences.scored.numpy())
    with torch.inference_mode():
        for batch in windows(sequences, None):
            collected.add(batch, tracer(batch)[0].sigmoid())
    assert streamed.std() > 0.05
    np.testing.assert_allclose(streamed, collected.result(), atol=1e-5)


def test_coin_flip_changes_responses_only_and_by_seed(sequences):
    flipped = coin_flip(sequences, 1)
    assert 0.45 < flipped.response.float().mean() < 0.55
    assert (flipped.response == coin_flip(sequences, 1).response).all()
    assert (flipped.response != coin_flip(sequences, 2).response).any()
    assert flipped.question is sequences.question
    assert flipped.response.dtype == sequences.response.dtype
    batch = collate(flipped, windows(flipped, None).pieces)
    assert set(batch.response.unique().tolist()) == {0, 1}


def test_tables_by_answers_seen_and_calibration_hold_every_row(sequences, vocabulary):
    item_mean = baselines.load("item_mean")
    model = item_mean.build(item_mean.config()).fit(sequences, None, vocabulary)
    scores = evaluate(model, sequences, resamples=50)
    seen = scores.by_answers_seen
    assert seen["n_rows"].sum() == scores.calibration["n_rows"].sum() == scores.n_rows
    frame = scores.predictions
    for line in seen.iter_rows(named=True):
        most = line["answers_seen_most"]
        most = frame["answers_seen"].max() if most is None else most
        part = frame.filter(pl.col("answers_seen").is_between(line["answers_seen"], most))
        assert line["n_rows"] == part.height
        expected = metrics.auc(part["response"].to_numpy(), part["p_correct"].to_numpy())
        assert line["auc"] == pytest.approx(expected, nan_ok=True)
    for line in scores.calibration.iter_rows(named=True):
        low = line["p_least"]
        part = frame.filter((pl.col("p_correct") >= low) & (pl.col("p_correct") < low + 0.1))
        assert line["n_rows"] == part.height
        assert line["response"] == pytest.approx(part["response"].mean())
        assert line["p_correct"] == pytest.approx(part["p_correct"].mean())


def test_metrics_that_do_not_exist_are_nan_and_said(sequences):
    always = replace(sequences, response=torch.ones_like(sequences.response))
    scores = evaluate(Spy(), always, resamples=5)
    assert np.isnan(scores.metrics["auc"].value)
    assert f"auc is not defined: all {scores.n_rows} responses are 1" in scores.notes
    assert evaluate(Spy(), sequences, resamples=5).notes == ()


def test_within_concept_uses_the_concept_sets_of_the_scored_rows(sequences):
    scores = evaluate(Spy(), sequences, "pykt", resamples=0)
    places = scores.predictions["row"].to_numpy()
    sets = torch.tensor_split(sequences.concept, sequences.concept_start[1:-1])
    expected = [c for place in places for c in sets[place].tolist()]
    assert scores.answers.concept.tolist() == expected


def test_compare_pairs_the_same_interactions_only(sequences):
    first = evaluate(Spy(), sequences, resamples=0)
    second = evaluate(Spy(lambda p: p**2), sequences, resamples=0)
    gap = compare(first, second, resamples=50)
    assert gap["auc"].value == 0.0
    assert gap["nll"].value == pytest.approx(
        first.metrics["nll"].value - second.metrics["nll"].value
    )
    with pytest.raises(InputError, match="different interactions"):
        compare(first, evaluate(Spy(), sequences, "pykt", resamples=0))


def test_every_protocol_describes_itself():
    assert {"full", "pykt", "stream", "cold_start"} == set(PROTOCOLS)
    assert all(rules.description for rules in PROTOCOLS.values())


def test_table_by_answers_seen_has_an_open_end():
    answers = Answers(np.array([0, 1, 1, 0]), np.full(4, 0.5), np.arange(4))
    frame = by_answers_seen(answers, np.array([0, 3, 4, 5000]), resamples=0)
    assert frame["answers_seen"].to_list() == [0, 3, 200]
    assert frame["answers_seen_most"].to_list() == [0, 4, None]
    assert calibration(answers).to_dicts() == [
        {"p_least": 0.5, "n_rows": 4, "p_correct": 0.5, "response": 0.5}
    ]
