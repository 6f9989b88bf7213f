from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from kt_forecast.data.series.ahead import ahead, ends
from kt_forecast.data.series.load import load
from kt_forecast.data.series.source import open_source
from kt_forecast.errors import InputError
from kt_forecast.sequences import build_series
from kt_forecast.sequences.build_series import SeriesScale, build, fit_scale, known_names, shape_of


def frame(n=30, series=("a", "b"), *, gap=False, short=0):
    rows = []
    draw = np.random.default_rng(0)
    for place, name in enumerate(series):
        length = n - short * place
        stamps = pl.datetime_range(
            pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 1) + pl.duration(hours=length - 1),
            "1h", eager=True,
        )  # fmt: skip
        y = draw.normal(10.0 * (place + 1), 2.0, length)
        if gap and place == 0:
            y[5] = np.nan
        rows.append(
            pl.DataFrame(
                {
                    "unique_id": [name] * length,
                    "ds": stamps,
                    "y": y,
                    "heat": draw.normal(50.0, 7.0, length),
                    "price": draw.normal(size=length),
                    "size": [float(place)] * length,
                }
            )
        )
    return pl.concat(rows)


def table(**options):
    gaps = "mask" if options.get("gap") else "refuse"
    return load(frame(**options), future=["heat"], past=["price"], static=["size"], gaps=gaps)


def full(some, end):
    return np.full(some.n_series, end)


def test_scales_are_those_of_the_training_rows_alone():
    some = table()
    scale = fit_scale(some, full(some, 20))
    y = frame()["y"].to_numpy().reshape(2, -1)
    np.testing.assert_allclose(scale.shift, y[:, :20].mean(1))
    np.testing.assert_allclose(scale.spread, y[:, :20].std(1))
    later = replace(some, y=some.y.copy(), future=some.future.copy(), past=some.past.copy())
    row = np.arange(some.n_rows) % 30
    for values in (later.y, later.future, later.past):
        values[row >= 20] += 100.0
    moved = fit_scale(later, full(some, 20))
    for name, values in scale.arrays().items():
        np.testing.assert_array_equal(values, moved.arrays()[name])


def test_series_are_standardised_in_blocks_as_at_once(monkeypatch):
    some = table(short=4)
    scale = fit_scale(some, full(some, 20))
    whole = build(some, scale)
    monkeypatch.setattr(build_series, "ROWS_AT_ONCE", 1)
    again = build(some, fit_scale(some, full(some, 20)))
    assert torch.equal(whole.values, again.values)
    assert whole.values[:20].mean().abs() < 1e-6
    assert abs(float(whole.values[:20].std(correction=0)) - 1.0) < 1e-6


def test_a_constant_series_keeps_its_level():
    some = table()
    flat = replace(some, y=np.full(some.n_rows, 7.3))
    scale = fit_scale(flat, full(some, 20))
    np.testing.assert_array_equal(scale.spread, [1.0, 1.0])
    assert build(flat, scale).values.abs().max() < 1e-6


def test_missing_values_hold_the_last_one_before_them_and_are_told():
    some = table(gap=True)
    scale = fit_scale(some, full(some, 20))
    built = build(some, scale)
    assert not built.observed[5]
    assert built.observed.sum() == some.n_rows - 1
    assert built.values[5] == built.values[4]
    later = replace(some, y=some.y.copy())
    later.y[6:] += 50.0
    assert build(later, scale).values[5] == built.values[5]
    assert shape_of(some, built).gaps


def test_covariates_are_standardised_and_named():
    some = table()
    built = build(some, fit_scale(some, full(some, 30)), calendar=True)
    assert abs(float(built.known.mean())) < 1e-5
    assert abs(float(built.past.std(correction=0)) - 1.0) < 1e-5
    assert built.static.flatten().tolist() == [-1.0, 1.0]
    names = known_names(some, calendar=True)
    assert names[0] == "heat"
    assert len(names) == built.n_known
    shape = shape_of(some, built)
    assert (shape.past, shape.known, shape.static) == (1, len(names), 1)


def test_series_that_start_at_different_stamps_share_one_calendar():
    rows = frame().filter((pl.col("unique_id") == "a") | (pl.col("ds").dt.day() > 1))
    some = load(rows)
    built = build(some, fit_scale(some, some.length), calendar=True)
    assert built.tick.tolist() == [0, 24]
    hour = [name.startswith("hour") for name in known_names(some, calendar=True)].index(True)
    assert torch.equal(built.clock[24, hour], built.clock[0, hour])
    assert len(built.clock) == 30


def test_a_scale_is_stored_and_comes_back():
    some = table()
    scale = fit_scale(some, full(some, 20))
    again = SeriesScale.restore(scale.names(), scale.arrays())
    assert torch.equal(build(some, again).values, build(some, scale).values)


def test_a_new_series_is_measured_by_its_own_rows_and_a_known_one_as_in_training():
    some = table()
    scale = fit_scale(some, full(some, 20))
    other = load(frame(series=("b", "c")), future=["heat"], past=["price"], static=["size"])
    built = build(other, scale)
    assert built.shift[0] == scale.shift[1]
    np.testing.assert_allclose(built.shift[1], other.y[30:].mean())


def test_other_covariates_than_in_training_are_refused():
    some = table()
    scale = fit_scale(some, full(some, 20))
    with pytest.raises(InputError, match="heat"):
        build(load(frame(), past=["price"], static=["size"]), scale)


def future_frame(hours=6, start=30):
    rows = frame(n=start + hours)
    return rows.group_by("unique_id", maintain_order=True).tail(hours).drop("y", "price", "size")


def test_rows_ahead_hold_what_is_known_in_advance_and_no_values():
    some = table()
    known = future_frame()
    later = ahead(some, 6, open_source(known))
    assert later.length.tolist() == [36, 36]
    assert np.isnan(later.y).sum() == 12
    np.testing.assert_allclose(later.future[30:36, 0], known["heat"][:6].cast(pl.Float32))
    np.testing.assert_array_equal(ends(later), [30, 30])
    built = build(later, fit_scale(some, full(some, 30)), asking=True)
    assert built.observed is None
    assert build(later, fit_scale(some, full(some, 30))).observed is not None


def test_rows_ahead_may_come_in_any_order_and_without_names_for_all_series():
    some = table()
    known = future_frame()
    shuffled = known.sample(fraction=1.0, shuffle=True, seed=1)
    wanted = ahead(some, 6, open_source(known)).future
    np.testing.assert_array_equal(ahead(some, 6, open_source(shuffled)).future, wanted)
    same = known.filter(pl.col("unique_id") == "a").drop("unique_id")
    both = ahead(some, 6, open_source(same)).future
    np.testing.assert_array_equal(both[30:36], both[66:72])


def test_only_the_rows_that_are_read_are_kept():
    some = table(short=25)
    later = ahead(some, 6, open_source(future_frame(hours=31, start=5)), keep=8)
    assert later.length.tolist() == [14, 11]
    np.testing.assert_array_equal(later.y[:8], some.y[22:30])
    step = some.frequency.step
    assert later.first.tolist() == [some.first[0] + 22 * step, some.first[1]]


@pytest.mark.parametrize("left_out", ["all", "one row", "column"])
def test_what_is_known_in_advance_must_be_there(left_out):
    some = table()
    known = {
        "all": None,
        "one row": open_source(future_frame()[:-1]),
        "column": open_source(future_frame().drop("heat")),
    }[left_out]
    with pytest.raises(InputError, match="heat"):
        ahead(some, 6, known)
