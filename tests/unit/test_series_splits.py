"""Splits of series: the published borders, one moment for all, and what they refuse."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_forecast.data.series.frequency import stamps_of
from kt_forecast.data.series.load import load
from kt_forecast.data.series.splits import (
    ByLast,
    ByMoment,
    ByProtocol,
    ByShare,
    load_split,
    split,
)
from kt_forecast.errors import InputError


def series(*lengths, starts=None, every="1h", name="mine"):
    starts = starts or [0] * len(lengths)
    frames = []
    for place, (length, start) in enumerate(zip(lengths, starts, strict=True)):
        first = pl.lit(pl.Series([0], dtype=pl.Int64).cast(pl.Datetime("us"))[0])
        hours = pl.Series(np.arange(start, start + length))
        stamps = pl.select(first.dt.offset_by(pl.format("{}" + every[1:], hours))).to_series()
        y = np.sin(np.arange(length) + place)
        frames.append(pl.DataFrame({"unique_id": [f"s{place}"] * length, "ds": stamps, "y": y}))
    return load(pl.concat(frames), name=name)


def ends(found):
    return [x.tolist() for x in (found.train_end, found.valid_end, found.test_end)]


@pytest.mark.parametrize(
    ("name", "every", "hours", "expected"),
    [("etth1", "1h", 17420, [8640, 11520, 14400]), ("ETTh2", "1h", 15000, [8640, 11520, 14400])],
)
def test_the_ett_family_has_its_own_borders(name, every, hours, expected):
    found = split(series(hours, every=every, name=name), ByProtocol())
    assert ends(found) == [[end] for end in expected]


def test_other_tables_are_cut_by_shares_as_published():
    for rows, train, valid, test in (
        (52696, 36887, 5270, 10539),
        (7588, 5311, 760, 1517),
        (966, 676, 97, 193),
        (26304, 18412, 2632, 5260),
    ):
        found = split(
            load(pl.DataFrame({"ds": range(rows), "y": np.arange(rows) % 7})), ByProtocol()
        )
        assert found.train_end[0] == train
        assert found.valid_end[0] - found.train_end[0] == valid
        assert found.test_end[0] - found.valid_end[0] == test == int(0.2 * rows)


def test_ett_borders_can_be_had_and_left():
    table = series(14400, name="load")
    assert ends(split(table, ByProtocol(borders="ett"))) == [[8640], [11520], [14400]]
    named = series(14400, name="etth1")
    assert split(named, ByProtocol(borders="shares")).train_end[0] == int(0.7 * 14400)
    with pytest.raises(InputError, match=r"etth1: has 14399 rows, and the borders .* need 14400"):
        split(series(14399, name="etth1"), ByProtocol())
    with pytest.raises(InputError, match=r"its frequency is '7'; accepted are borders = 'shares'"):
        split(
            load(pl.DataFrame({"ds": range(0, 70, 7), "y": range(10)})), ByProtocol(borders="ett")
        )


def test_one_moment_cuts_all_series():
    table = series(100, 60, 30, starts=[0, 40, 85])
    found = split(table, ByMoment(valid_from="1970-01-04T00:00", test_from="1970-01-04T12:00"))
    assert ends(found) == [[72, 32, 0], [84, 44, 0], [100, 60, 30]]
    assert found.notes == ("1 series has no row before validation and test",)


@given(
    lengths=st.lists(st.integers(3, 80), min_size=1, max_size=5),
    shift=st.integers(0, 20),
    every=st.sampled_from(["1h", "1d", "1mo", "1w"]),
)
def test_no_row_before_the_moment_tests_and_none_after_it_trains(lengths, shift, every):
    lengths = [*lengths, 120]
    starts = [shift * place for place in range(len(lengths))]
    table = series(*lengths, starts=starts, every=every)
    found = split(table, ByMoment())
    last_train, first_test = [], []
    for number in range(table.n_series):
        stamps = stamps_of(table, number, np.arange(table.length[number]))
        last_train += stamps[: found.train_end[number]].to_list()
        first_test += stamps[found.valid_end[number] :].to_list()
        assert 0 <= found.train_end[number] <= found.valid_end[number] <= table.length[number]
    assert max(last_train) < min(first_test)


def test_moments_of_integers_are_integers():
    table = load(pl.DataFrame({"ds": range(10, 110, 10), "y": range(10)}))
    assert ends(split(table, ByMoment(valid_from=70, test_from=95))) == [[6], [9], [10]]
    assert ends(split(table, ByMoment(valid_from="70", test_from="95"))) == [[6], [9], [10]]
    with pytest.raises(
        InputError, match="test_from: 'noon' is no stamp of frame; accepted is a whole"
    ):
        split(table, ByMoment(test_from="noon"))
    with pytest.raises(
        InputError, match="test_from: 'noon' is no stamp of mine; accepted is an ISO"
    ):
        split(series(20), ByMoment(test_from="noon"))
    with pytest.raises(
        InputError, match="test_from: 7 is no stamp of mine; accepted is an ISO date"
    ):
        split(series(20), ByMoment(test_from=7))


def test_validation_comes_before_test():
    settings = ByMoment(valid_from="1970-01-02", test_from="1970-01-01T10:00")
    with pytest.raises(InputError, match="validation would begin at 1970-01-02, after test at"):
        split(series(60), settings)


def test_rows_in_order_cannot_be_cut_at_a_moment():
    table = load(pl.DataFrame({"y": np.arange(20.0)}), stamps="order")
    with pytest.raises(InputError, match="accepted for it are splits by share, last and ltsf"):
        split(table, ByMoment())
    assert ends(split(table, ByShare())) == [[14], [16], [20]]


def test_shares_are_of_each_series():
    assert ends(split(series(100, 50), ByShare(train=0.6, test=0.2))) == [
        [60, 30],
        [80, 40],
        [100, 50],
    ]
    with pytest.raises(InputError, match=r"train 0\.7 and test 0\.4 are more than the whole"):
        split(series(100), ByShare(train=0.7, test=0.4))


def test_the_last_steps_test():
    assert ends(split(series(100, 50), ByLast(test=10, valid=5))) == [[85, 35], [90, 40], [100, 50]]
    assert ends(split(series(100), ByLast(test=10))) == [[90], [90], [100]]
    short = split(series(100, 12), ByLast(test=10, valid=5))
    assert ends(short) == [[85, 0], [90, 2], [100, 12]]
    assert short.notes == ("1 series has no row before validation and test",)


@pytest.mark.parametrize(
    ("settings", "role"),
    [
        (ByLast(test=20), "training"),
        (ByLast(test=10, valid=10), "training"),
        (ByMoment(test_from="1970-01-01T12:00", valid_from="1970-01-01T12:00"), "validation"),
        (ByShare(train=0.7, test=0.01), "test"),
        (ByMoment(test_from="1971-01-01", valid_from="1970-01-01T12:00"), "test"),
        (ByMoment(test_from="1960-01-01", valid_from="1960-01-01"), "training"),
    ],
)
def test_a_role_without_rows_is_refused(settings, role):
    with pytest.raises(
        InputError, match=rf"mine: a split by \w+ leaves no row for {role} in series"
    ):
        split(series(20), settings)


def test_rows_ahead_of_the_last_value_have_no_role():
    frame = pl.DataFrame({"ds": range(12), "y": [*range(10), None, None], "t": [1] * 12})
    assert ends(split(load(frame, future=["t"]), ByLast(test=2, valid=2))) == [[6], [8], [10]]


def test_the_tail_of_a_column_moves_no_border_of_the_others():
    frame = pl.DataFrame({"ds": range(10), "a": range(10), "b": [*range(8), None, None]})
    assert ends(split(load(frame), ByLast(test=2, valid=2))) == [[6, 6], [8, 8], [10, 10]]


def test_a_split_is_saved_and_read_for_its_own_table_only(tmp_path):
    table, path = series(100, 50), tmp_path / "deep" / "split.json"
    for settings in (ByLast(test=10, valid=5), ByShare(), ByMoment(), ByProtocol()):
        found = split(table, settings)
        found.save(path)
        again = load_split(path, table)
        assert ends(again) == ends(found)
        assert (again.split_hash, again.kind) == (found.split_hash, settings.kind)
    with pytest.raises(
        InputError, match=r"split\.json: was made for other series \(hash \w+\) than"
    ):
        load_split(path, series(100, 51))
    plain = json.loads(path.read_text())
    path.write_text(json.dumps({**plain, "split_hash": "0"}))
    with pytest.raises(InputError, match="no longer give the borders it was saved with"):
        load_split(path, table)
    path.write_text("{}")
    with pytest.raises(InputError, match="not a split of series"):
        load_split(path, table)
    with pytest.raises(InputError, match="not a split of series"):
        load_split(tmp_path / "none.json", table)
