from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_forecast.errors import InputError
from kt_forecast.sequences.series import SeriesSet
from kt_forecast.sequences.windows import (
    Permutation,
    WindowBatches,
    gather,
    in_order,
    origins,
)


def series(*lengths, known=0, past=0, calendar=0, missing=None, tick=None):
    rows = sum(lengths)
    start = torch.tensor([0, *np.cumsum(lengths)])
    observed = None
    if missing is not None:
        observed = torch.ones(rows, dtype=torch.bool)
        observed[missing] = False
    ticks = torch.tensor(tick or [0] * len(lengths))
    return SeriesSet(
        values=torch.arange(rows, dtype=torch.float32),
        observed=observed,
        start=start,
        past=torch.arange(rows * past, dtype=torch.float32).reshape(rows, past),
        known=torch.arange(rows * known, dtype=torch.float32).reshape(rows, known),
        clock=torch.arange(100.0 * calendar).reshape(100 if calendar else 0, calendar),
        tick=ticks,
        static=torch.zeros(len(lengths), 0),
        shift=torch.zeros(len(lengths)),
        spread=torch.ones(len(lengths)),
    )


def span(low, high, n=1):
    return np.full(n, low), np.full(n, high)


def all_of(some, low, high, *, horizon, **options):
    return origins(some, *span(low, high, some.n_series), horizon=horizon, **options)


def test_a_role_has_as_many_windows_as_its_rows_allow():
    some = series(40, 40)
    chosen = all_of(some, 25, 40, horizon=4)
    assert len(chosen) == 2 * (15 - 4 + 1)
    assert chosen.at(np.array([0, 11, 12, 23]))[0].tolist() == [0, 0, 1, 1]
    assert chosen.at(np.array([0, 11, 12, 23]))[1].tolist() == [25, 36, 25, 36]


def test_every_window_holds_its_own_rows_and_reaches_back_over_the_border():
    some = series(30, 30, past=1, known=2, calendar=3, tick=[0, 5])
    chosen = all_of(some, 20, 30, horizon=3)
    batch = gather(some, chosen, np.array([0, 9]), context=8, horizon=3)
    assert batch.values[0, 0].tolist() == list(range(12, 23))
    assert batch.values[1, 0].tolist() == [30.0 + v for v in range(13, 24)]
    assert batch.window.context.shape == (2, 1, 8)
    assert batch.target[1, 0].tolist() == [51, 52, 53]
    assert batch.real is None
    assert torch.equal(batch.past[0, 0], some.past[12:23])
    assert torch.equal(batch.window.past[0, 0], some.past[12:20])
    assert torch.equal(batch.known[1, 0, :, :2], some.known[43:54])
    assert torch.equal(batch.known[1, 0, :, 2:], some.clock[18:29])
    assert batch.series[:, 0].tolist() == [0, 1]


def test_a_short_series_is_padded_on_the_left():
    some = series(9, 30)
    chosen = all_of(some, 0, 9, horizon=3, least=2)
    batch = gather(some, chosen, np.array([0]), context=6, horizon=3)
    assert batch.values[0, 0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4]
    assert batch.real[0, 0].tolist() == [False] * 4 + [True] * 5


def test_missing_values_are_told():
    some = series(30, missing=[11, 21])
    batch = gather(some, all_of(some, 20, 30, horizon=3), np.array([0]), context=10, horizon=3)
    assert batch.window.real[0, 0].tolist() == [True, False] + [True] * 8
    assert batch.scored[0, 0].tolist() == [True, False, True]


def test_mixing_takes_all_series_as_channels_of_one_window():
    some = series(30, 30, 30)
    chosen = all_of(some, 20, 30, horizon=3, mixing=True)
    assert len(chosen) == 8
    batch = gather(some, chosen, np.array([1]), context=5, horizon=3)
    assert batch.values[0, :, 0].tolist() == [16, 46, 76]
    assert batch.series[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("some", [series(30, 20), series(30, 30, tick=[0, 1])])
def test_series_with_other_stamps_are_not_mixed(some):
    with pytest.raises(InputError, match="mixing = false"):
        origins(some, *span(10, 20, 2), horizon=3, mixing=True)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_in_order_gives_each_window_once_and_drops_none(size):
    some = series(25, 40)
    chosen = origins(some, np.array([10, 15]), np.array([25, 40]), horizon=4, stride=2)
    batches = list(in_order(some, chosen, context=6, horizon=4, windows_per_batch=size))
    places = torch.cat([batch.place for batch in batches])
    assert places.tolist() == list(range(len(chosen)))
    first = torch.cat([batch.target[:, 0, 0] for batch in batches]).tolist()
    assert first == [*range(10, 22, 2), *range(40, 62, 2)]


@given(n=st.integers(1, 3000), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_a_permutation_hits_every_number_once(n, seed):
    order = Permutation(n, seed)(np.arange(n))
    assert sorted(order.tolist()) == list(range(n))


def test_permutations_look_random_and_differ_by_seed():
    n = 20_000
    one, other = (Permutation(n, seed)(np.arange(n)) for seed in (0, 1))
    assert (one == other).mean() < 0.01
    assert abs(np.corrcoef(np.arange(n), one)[0, 1]) < 0.03
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.03
    assert abs(one[:2000].mean() / n - 0.5) < 0.02


def batches(some, **options):
    chosen = all_of(some, 0, some.start[1].item(), horizon=3, least=6)
    defaults = {"context": 6, "horizon": 3, "windows_per_batch": 8, "seed": 3}
    return WindowBatches(some, chosen, **(defaults | options))


def places(found):
    return [batch.place.tolist() for batch in found]


def test_an_epoch_gives_each_window_once_in_an_order_of_its_own():
    loader = batches(series(60, 60))
    first, second = places(loader.epoch(1)), places(loader.epoch(2))
    assert len(first) == len(loader)
    assert sorted(chain(*first)) == list(range(2 * 52))
    assert first != second
    assert places(loader.epoch(1)) == first


def test_an_interrupted_epoch_goes_on_with_the_same_batches():
    loader = batches(series(60, 60))
    assert places(loader.epoch(4, start=5)) == places(loader.epoch(4))[5:]


def test_processes_share_a_batch_and_miss_no_window():
    loader = batches(series(60, 60))
    whole = places(loader.epoch(1))
    parts = [places(loader.epoch(1, rank=rank, world=2)) for rank in range(2)]
    for batch, one, other in zip(whole, *parts, strict=True):
        assert sorted(one + other) == sorted(batch)


def test_an_epoch_may_be_shorter_than_all_windows():
    loader = batches(series(60, 60), windows_per_epoch=20)
    seen = list(chain(*places(loader.epoch(1))))
    assert len(loader) == 3
    assert len(set(seen)) == 20
    assert set(seen) != set(chain(*places(loader.epoch(2))))


def test_training_rows_too_few_for_a_window_are_refused():
    with pytest.raises(InputError, match="shorter context or horizon"):
        batches(series(8))


def test_a_batch_shares_nothing_with_the_series_but_the_series_stay_one_array():
    some = series(1000)
    batch = gather(some, all_of(some, 500, 1000, horizon=3), np.arange(4), context=6, horizon=3)
    batch.values.zero_()
    assert some.values[494:].min() > 0
