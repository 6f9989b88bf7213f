"""The step of a grid: found in pandas' own ranges, counted along, and read as a calendar."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_forecast.data.series.frequency import (
    at,
    calendar,
    calendar_names,
    detect,
    future_stamps,
    parse_frequency,
    stamps_of,
    ticks,
)
from kt_forecast.data.series.load import load
from kt_forecast.errors import InputError

KNOWN = {
    # what pandas calls it: our text, its season
    "h": ("1h", 24),
    "2h": ("2h", 12),
    "15min": ("15m", 96),
    "10min": ("10m", 144),
    "30min": ("30m", 48),
    "min": ("1m", 60),
    "s": ("1s", 60),
    "D": ("1d", 7),
    "W": ("1w", 52),
    "MS": ("1mo", 12),
    "ME": ("ME", 12),
    "QS": ("1q", 4),
    "QE": ("QE", 4),
    "YS": ("1y", 1),
    "YE": ("YE", 1),
    "B": ("1b", 5),
    "6h": ("6h", 4),
}


def micro(index):
    return index.as_unit("us").astype("int64").to_numpy().copy()


@pytest.mark.parametrize("freq", KNOWN)
@pytest.mark.parametrize("begin", ["2023-12-29 00:00", "2024-01-31 06:30"])
def test_the_frequencies_of_pandas_are_detected_and_counted_along(freq, begin):
    stamps = micro(pd.date_range(begin, periods=40, freq=freq))
    found = detect(stamps, np.array([0, 40]), dated=True)
    assert (found.text, found.season) == KNOWN[freq]
    assert found == parse_frequency(freq)
    count = np.arange(40)
    assert at(found, int(stamps[0]), count).tolist() == stamps.tolist()
    assert ticks(found, stamps[:1], stamps).tolist() == count.tolist()


@pytest.mark.parametrize("freq", KNOWN)
def test_future_stamps_are_those_that_pandas_goes_on_with(freq):
    index = pd.date_range("2024-01-31", periods=50, freq=freq)
    table = load(pd.DataFrame({"ds": index[:30], "y": np.arange(30.0)}))
    assert future_stamps(table, 0, 20).to_list() == index[30:].to_pydatetime().tolist()
    assert stamps_of(table, 0, np.array([0, 29])).to_list() == index[[0, 29]].to_list()


def test_days_that_months_lack_are_cut_down():
    stamps = micro(pd.DatetimeIndex(["2023-12-30", "2024-01-30", "2024-02-29", "2024-03-30"]))
    found = detect(stamps, np.array([0, 4]), dated=True)
    assert found.text == "1mo"
    assert at(found, int(stamps[0]), np.arange(4)).tolist() == stamps.tolist()


@given(
    kind=st.sampled_from(["1h", "15m", "1d", "1w", "3", "1mo", "ME", "1q", "1b", "7s"]),
    first=st.integers(0, 20_000),
    count=st.lists(st.integers(0, 5_000), min_size=1, max_size=20),
)
def test_a_tick_is_the_inverse_of_its_stamp(kind, first, count):
    frequency = parse_frequency(kind)
    day = np.datetime64(first, "D")
    if kind == "ME":
        day = (day.astype("M8[M]") + 1).astype("M8[D]") - 1
    if kind == "1b":
        day = np.busday_offset(day, 0, roll="forward")
    start = int(day.astype("M8[us]").astype(np.int64))
    steps = np.array(count)
    stamps = at(frequency, start, steps)
    assert ticks(frequency, np.array([start]), stamps).tolist() == count
    later = at(frequency, start, steps + 1)
    assert (later > stamps).all()
    assert ticks(frequency, np.array([start]), later - 1).tolist() == count or kind in {
        "1mo",
        "1q",
        "ME",
        "1b",
    }


@pytest.mark.parametrize("text", ["", "0h", "1fortnight", "-1h", "h1", "1.5h"])
def test_what_names_no_frequency_is_refused(text):
    with pytest.raises(InputError, match=r"is no frequency; accepted are texts such as '15m'"):
        parse_frequency(text)


def test_gaps_do_not_hide_the_frequency():
    index = pd.date_range("2024-01-01", periods=100, freq="D").delete([3, 4, 50, 70])
    assert detect(micro(index), np.array([0, 96]), dated=True).text == "1d"
    business = pd.bdate_range("2024-01-01", periods=60).delete([7, 23])
    table = load(pd.DataFrame({"ds": business, "y": 1.0}), gaps="mask")
    assert table.frequency.text == "1b"
    assert np.flatnonzero(np.isnan(table.y)).tolist() == [7, 23]


def test_working_days_may_be_named_days():
    index = pd.bdate_range("2024-01-01", periods=10)
    table = load(pd.DataFrame({"ds": index, "y": np.arange(10.0)}), freq="D", gaps="ffill")
    assert table.frequency.text == "1d"
    assert table.y.tolist() == [0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 9]


def test_a_season_may_be_named():
    assert parse_frequency("1h", 168).season == 168
    assert load(pl.DataFrame({"ds": range(9), "y": range(9)}), season=3).frequency.season == 3


def test_integers_have_a_step_and_no_season():
    table = load(pl.DataFrame({"ds": [10, 20, 30], "y": [1, 2, 3]}))
    assert (table.frequency.text, table.frequency.kind, table.frequency.season) == (
        "10",
        "integer",
        1,
    )
    assert future_stamps(table, 0, 2).to_list() == [40, 50]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (pl.Date, pl.Date),
        (pl.Datetime("ns"), pl.Datetime("ns")),
        (pl.Datetime("ms"), pl.Datetime("ms")),
        (pl.String, pl.Date),
        (pl.Datetime("us", "Europe/Berlin"), pl.Datetime("us", "Europe/Berlin")),
        (pl.Int16, pl.Int16),
    ],
)
def test_stamps_come_back_in_the_users_type(dtype, expected):
    days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 1, 6), eager=True)
    given_ = pl.int_range(6, eager=True) if dtype == pl.Int16 else days
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        given_ = days.cast(pl.Datetime("us")).dt.replace_time_zone(dtype.time_zone)
    else:
        given_ = given_.cast(dtype)
    table = load(pl.DataFrame({"ds": given_, "y": range(6)}))
    found = stamps_of(table, 0, np.arange(6))
    assert found.dtype == expected
    assert found.to_list() == (days if dtype == pl.String else given_).to_list()


def test_rows_in_order_go_on_by_their_usual_step():
    moments = pd.DatetimeIndex(
        ["2024-01-01", "2024-01-02", "2024-01-02", "2024-01-03", "2024-01-09"]
    )
    table = load(pd.DataFrame({"ds": moments, "y": np.arange(5.0)}), stamps="order")
    assert stamps_of(table, 0, np.array([2, 4])).to_list() == moments[[2, 4]].to_list()
    assert future_stamps(table, 0, 2).dt.day().to_list() == [10, 11]
    bare = load(pl.DataFrame({"y": [1.0, 2.0]}), stamps="order")
    assert future_stamps(bare, 0, 2).to_list() == [2, 3]


@pytest.mark.parametrize(
    ("freq", "names"),
    [
        ("10s", ("second", "minute", "hour", "day_of_week", "day_of_month", "day_of_year")),
        ("15m", ("minute", "hour", "day_of_week", "day_of_month", "day_of_year")),
        ("1h", ("hour", "day_of_week", "day_of_month", "day_of_year")),
        ("1d", ("day_of_week", "day_of_month", "day_of_year")),
        ("1b", ("day_of_week", "day_of_month", "day_of_year")),
        ("1w", ("day_of_month", "day_of_year")),
        ("1mo", ("month",)),
        ("QE", ("month",)),
        ("1y", ()),
        ("5", ()),
        ("order", ()),
    ],
)
def test_the_calendar_holds_what_varies(freq, names):
    frequency = parse_frequency(freq)
    found = calendar(1_709_164_800_000_000, frequency, 30_000 if freq == "10s" else 2000)
    assert calendar_names(frequency) == names
    assert found.shape[1] == len(names)
    assert found.dtype == np.float32
    assert (np.abs(found) <= 0.5).all()
    assert not len(names) or (found.max(axis=0) > found.min(axis=0)).all()


def test_the_calendar_says_what_pandas_says():
    index = pd.date_range("2024-02-27 22:00", periods=100, freq="h")
    hour, weekday, day, year = calendar(int(micro(index)[0]), parse_frequency("1h"), 100).T
    assert hour == pytest.approx(index.hour / 23 - 0.5)
    assert weekday == pytest.approx(index.day_of_week / 6 - 0.5, abs=1e-6)
    assert day == pytest.approx((index.day - 1) / 30 - 0.5, abs=1e-6)
    assert year == pytest.approx((index.day_of_year - 1) / 365 - 0.5, abs=1e-6)
