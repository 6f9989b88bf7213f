"""Batches: nothing lost, nothing twice, little padding, the same again from any position."""

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest
import torch

from kt_forecast.data.simulate import Simulation, simulate
from kt_forecast.data.splits import ByFraction, Role, split
from kt_forecast.data.tables import load
from kt_forecast.errors import InputError
from kt_forecast.schema import CONCEPTS, QUESTION, RESPONSE, STUDENT
from kt_forecast.sequences.batching import MOST_PADDING, Batches, sliding, windows
from kt_forecast.sequences.build import build, build_role, fit_vocabulary


@pytest.fixture(scope="module")
def table():
    return load(simulate(Simulation(students=150, mean_steps=30, seed=11, bundled=0.2)))


@pytest.fixture(scope="module")
def sequences(table):
    return build(table, fit_vocabulary(table, extras=["elapsed"]))


def same(one, other) -> bool:
    names = [field.name for field in fields(one) if getattr(one, field.name) is not None]
    parts = [(torch.as_tensor(getattr(one, n)), torch.as_tensor(getattr(other, n))) for n in names]
    return all(torch.equal(a, b) for a, b in parts)


def places(batches) -> Counter:
    return Counter(torch.cat([batch.place[batch.real] for batch in batches]).tolist())


def scored(batches) -> Counter:
    return Counter(torch.cat([batch.place[batch.scored] for batch in batches]).tolist())


@pytest.mark.parametrize("history", [None, 1, 7, 200])
@pytest.mark.parametrize("size", [{"steps_per_batch": 500}, {"batch_size": 16}])
def test_every_step_comes_once_an_epoch_with_little_padding(sequences, history, size):
    batches = Batches(sequences, history=history, **size)
    once = Counter(range(sequences.n_steps))
    for number in (0, 1):
        made = list(batches.epoch(number))
        assert len(made) == len(batches)
        assert places(made) == once
        assert scored(made) == once
        longest = max(batch.shape[1] for batch in made)
        assert longest <= (history or 10**9)
        for batch in made:
            if "batch_size" in size:
                assert batch.shape[0] <= 16
            else:
                assert batch.shape[0] == 1 or batch.real.numel() <= 500
    assert batches.padding_share < MOST_PADDING
    real = sum(int(batch.real.sum()) for batch in batches)
    total = sum(batch.real.numel() for batch in batches)
    assert batches.padding_share == pytest.approx(1 - real / total)


def test_a_batch_holds_the_steps_at_their_places(sequences):
    for batch in Batches(sequences, steps_per_batch=700):
        at, real = batch.place[batch.real], batch.real
        assert torch.equal(batch.question[real], sequences.question[at].long())
        assert torch.equal(batch.response[real], sequences.response[at].long())
        assert torch.equal(batch.event[real], sequences.event[at].long())
        assert torch.equal(batch.seconds[real], sequences.seconds[at])
        assert torch.equal(batch.extras[real], sequences.extras[at])
        for place, concepts in zip(at.tolist(), batch.concepts[real].tolist(), strict=True):
            low, high = sequences.concept_start[place : place + 2]
            expected = sequences.concept[low:high].tolist()
            assert concepts == expected + [0] * (len(concepts) - len(expected))
        for part in (batch.question, batch.response, batch.concepts, batch.seconds, batch.extras):
            assert (part[~real] == 0).all()
        assert (batch.place[~real] == -1).all()
        assert not batch.scored[~real].any()
        # Padding stands on the right, and events never fall along a row.
        assert (real.int().diff(dim=1) <= 0).all()
        assert (batch.place.diff(dim=1)[real[:, 1:]] == 1).all()
        rise = batch.event.diff(dim=1)
        assert (rise >= 0).all()
        assert (rise[~real[:, 1:]] > 0).all()
        assert batch.bundles == bool((rise == 0).any())


def test_batches_take_any_vocabulary_and_no_concepts():
    raw = pl.DataFrame({STUDENT: [1, 1, 2], QUESTION: [1, 2, 1], RESPONSE: [1, 0, 1]})
    table = load(raw)
    batch = next(iter(Batches(build(table, fit_vocabulary(table)))))
    assert batch.concepts.shape[-1] == 1
    assert (batch.concepts == 0).all()
    assert batch.extras.shape[-1] == 0
    assert (batch.seconds == 0).all()


def test_seed_and_epoch_alone_decide(sequences):
    def epoch(number, seed=0, **settings):
        return list(Batches(sequences, steps_per_batch=500, seed=seed, **settings).epoch(number))

    first = epoch(0)
    assert all(same(a, b) for a, b in zip(first, epoch(0), strict=True))
    for other in (epoch(1), epoch(0, seed=1)):
        assert len(other) == len(first)
        assert not all(a.shape == b.shape and same(a, b) for a, b in zip(first, other, strict=True))
    still = epoch(0, shuffle=False)
    assert all(same(a, b) for a, b in zip(still, epoch(5, shuffle=False), strict=True))


def test_epochs_mix_pieces_of_like_length(sequences):
    batches = Batches(sequences, history=5, batch_size=8)
    groups = [
        {frozenset(batch.place[:, 0].tolist()) for batch in batches.epoch(number)}
        for number in (0, 1)
    ]
    assert len(groups[0] & groups[1]) < len(groups[0]) / 2


@pytest.mark.parametrize("start", [0, 3, 10_000])
def test_a_run_goes_on_from_where_it_stood(sequences, start):
    batches = Batches(sequences, steps_per_batch=500)
    whole = list(batches.epoch(2))
    rest = list(batches.epoch(2, start=start))
    assert len(rest) == max(0, len(whole) - start)
    assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_share_every_batch(sequences, world):
    batches = Batches(sequences, steps_per_batch=900, history=40)
    whole = list(batches.epoch(1))
    shares = [list(batches.epoch(1, rank=rank, world=world)) for rank in range(world)]
    assert {len(share) for share in shares} == {len(whole)}
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert scored(parts) == scored([batch])
        assert all(len(part.real) and part.real.any() for part in parts)


@pytest.mark.parametrize("wrong", [{"history": 0}, {"steps_per_batch": 0}, {"batch_size": -1}])
def test_sizes_must_be_positive(sequences, wrong):
    with pytest.raises(InputError, match="accepted are whole numbers from 1"):
        Batches(sequences, **wrong)


# Windows for evaluation


@pytest.mark.parametrize("unit", ["steps", "rows"])
@pytest.mark.parametrize("history", [1, 2, 10, 25, 10_000])
def test_every_scored_step_is_predicted_exactly_once(sequences, history, unit):
    made = windows(sequences, history, unit, steps_per_batch=2000)
    assert scored(made) == Counter(range(sequences.n_steps))
    assert scored(windows(sequences, None)) == Counter(range(sequences.n_steps))


def rows_of(sequences, place: int) -> int:
    low, high = sequences.concept_start[place : place + 2]
    return max(1, int(high - low))


@pytest.mark.parametrize("unit", ["steps", "rows"])
def test_a_prediction_looks_back_as_far_as_it_may_and_no_farther(sequences, unit):
    history = 12
    size = (lambda _: 1) if unit == "steps" else (lambda place: rows_of(sequences, place))
    begins = dict.fromkeys(sequences.start[:-1].tolist())
    checked = 0
    for batch in windows(sequences, history, unit):
        for row in range(batch.shape[0]):
            steps = batch.place[row][batch.real[row]].tolist()
            targets = batch.place[row][batch.scored[row]].tolist()
            assert sum(map(size, steps)) <= history
            if steps[0] in begins:
                continue
            assert targets == steps[-1:]
            assert sum(map(size, steps)) + size(steps[0] - 1) > history
            checked += 1
    assert checked > 500


def test_the_first_steps_go_in_one_pass(sequences):
    made = sliding(sequences, 12)
    heads = np.isin(made.start, sequences.start.numpy()) & (made.scored_from == 0)
    lengths = np.diff(sequences.start.numpy())
    assert sorted(made.length[heads]) == sorted(np.minimum(lengths, 12))
    assert (made.length[~heads] == 12).all()


def test_a_step_wider_than_the_history_stands_alone():
    raw = pl.DataFrame(
        {
            STUDENT: [1] * 4,
            QUESTION: [1, 2, 3, 4],
            CONCEPTS: ["a_b_c", "a", "b_c_d", "c"],
            RESPONSE: [1, 0, 1, 0],
        }
    )
    table = load(raw)
    sequences = build(table, fit_vocabulary(table))
    made = windows(sequences, 2, "rows")
    assert scored(made) == Counter(range(4))
    assert places(made) == Counter(range(4))


def test_only_scored_steps_have_windows(table):
    made = split(table, ByFraction())
    test = build_role(table, fit_vocabulary(table, made), made, Role.TEST)
    expected = Counter(np.flatnonzero(test.scored.numpy()).tolist())
    for history in (None, 3, 20):
        assert scored(windows(test, history)) == expected
    assert scored(Batches(test, history=10)) == expected
    pieces = windows(test, 3).pieces
    assert len(pieces) <= int(test.scored.sum())


def test_windows_are_as_short_as_the_protocol_even_with_bundles(sequences):
    assert (sequences.event.diff() == 0).any()
    assert max(batch.shape[1] for batch in windows(sequences, 9)) == 9


def test_no_scored_step_no_batch(sequences):
    nothing = replace(sequences, scored=torch.zeros_like(sequences.scored))
    for batches in (Batches(nothing), windows(nothing, 5), windows(nothing, None)):
        assert len(batches) == 0
        assert list(batches) == []
        assert batches.padding_share == 0.0


def test_pieces_of_nearly_one_length_meet_different_ones_every_epoch():
    settings = Simulation(students=200, mean_steps=40, seed=5)
    table = load(simulate(settings))
    batches = Batches(build(table, fit_vocabulary(table)), steps_per_batch=512)

    def companies(epoch):
        return {frozenset(batch.place[:, 0].tolist()) for batch in batches.epoch(epoch)}

    again = companies(0) & companies(1)
    assert len(again) < 0.1 * len(batches)
    assert companies(0) == companies(0)
    assert batches.padding_share < MOST_PADDING
