"""The door of series: what passes as it is, what is put right and said, what is refused."""

import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_forecast.data.series import grid
from kt_forecast.data.series.load import load
from kt_forecast.errors import InputError

HOURS = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 3), "1h", eager=True)


def long(n=10, ids=("a",), **columns):
    frames = [
        pl.DataFrame({"unique_id": [i] * n, "ds": HOURS[:n], "y": np.arange(n) + 0.5 * k})
        for k, i in enumerate(ids)
    ]
    return pl.concat(frames).with_columns(**columns)


def without(frame, *rows):
    return frame.with_row_index("n").filter(~pl.col("n").is_in(rows)).drop("n")


def emptied(frame, *rows, column="y"):
    gone = pl.int_range(pl.len()).is_in(rows)
    return frame.with_columns(pl.when(~gone).then(pl.col(column)).alias(column))


def put(frame, row, value, column):
    there = pl.int_range(pl.len()) == row
    return frame.with_columns(pl.when(there).then(value).otherwise(column).alias(column))


def said(frame, **options):
    with pytest.raises(InputError) as error:
        load(frame, **options)
    return str(error.value)


def test_clean_series_pass_without_a_word():
    table = load(long(ids=("a", "b")))
    assert table.ids == ("a", "b")
    assert table.start.tolist() == [0, 10, 20]
    assert table.y.tolist() == [*np.arange(10.0), *(np.arange(10) + 0.5)]
    assert table.first.tolist() == [HOURS[:1].to_physical()[0]] * 2
    assert (table.frequency.text, table.frequency.season) == ("1h", 24)
    assert table.notes == ()
    assert table.aligned
    assert table.id_name == "unique_id"


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64])
def test_values_keep_their_precision(dtype):
    expected = np.float32 if dtype == pl.Float32 else np.float64
    assert load(long().with_columns(pl.col("y").cast(dtype))).y.dtype == expected


def test_a_stamp_twice_is_refused_by_series_and_stamp():
    frame = long(ids=("a", "b"))
    text = said(pl.concat([frame, frame[13:15]]))
    assert text.startswith("the data frame, row 21, column 'ds': series 'b' has the stamp")
    assert "2024-01-01 03:00:00 twice, and so 1 more row;" in text
    assert "stamps='order'" in text


def test_a_stamp_twice_in_rows_out_of_order_is_named_where_it_stands():
    frame = long()[[5, 3, 1, 3, 0, 2, 4]]
    assert "row 4, column 'ds'" in said(frame)


@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_infinite_values_are_refused(value):
    frame = long().with_columns(y=pl.when(pl.int_range(pl.len()) == 6).then(value).otherwise("y"))
    assert said(frame).startswith("the data frame, row 7, column 'y' is infinite; accepted are")


def test_text_in_values_is_refused():
    frame = long().with_columns(y=pl.col("y").cast(pl.String))
    assert load(frame).y.tolist() == list(np.arange(10.0))
    wrong = frame.with_columns(
        y=pl.when(pl.int_range(pl.len()) == 2).then(pl.lit("low")).otherwise("y")
    )
    assert "row 3, column 'y' holds 'low'; accepted are numbers" in said(wrong)


def test_a_column_of_another_type_is_refused():
    assert "column 'y', is of type List" in said(long().with_columns(y=pl.concat_list("y")))
    assert "column 'ds', is of type Boolean" in said(long().with_columns(ds=pl.lit(value=True)))


def test_stamps_that_cannot_be_understood_are_refused():
    frame = long().with_columns(ds=pl.col("ds").dt.to_string("%Y-%m-%d %H:%M"))
    assert load(frame).frequency.text == "1h"
    wrong = frame.with_columns(
        ds=pl.when(pl.int_range(pl.len()) == 4).then(pl.lit("noon")).otherwise("ds")
    )
    assert "row 5, column 'ds' holds 'noon'; accepted are dates" in said(wrong)
    assert "row 3, column 'ds' is empty; accepted are dates" in said(emptied(frame, 2, column="ds"))
    half = pl.DataFrame({"ds": [1.0, 2.5, 3.0], "y": [1.0, 2, 3]})
    assert "row 2, column 'ds' holds 2.5" in said(half)


def test_an_empty_id_is_refused():
    text = said(emptied(long(ids=("a", "b")), 12, column="unique_id"))
    assert "row 13, column 'unique_id' is empty; accepted is a series in every row" in text


def test_a_frequency_that_cannot_be_detected_is_refused():
    minutes = pl.Series([0, 7, 18, 31, 33, 50, 61], dtype=pl.Int64)
    frame = pl.DataFrame(
        {"ds": pl.Series("ds", minutes * 60_000_000).cast(pl.Datetime("us")), "y": minutes}
    )
    text = said(frame)
    assert "the frequency cannot be detected, for most stamps lie off" in text
    assert "stamps='order'" in text
    single = pl.DataFrame({"unique_id": ["a", "b"], "ds": HOURS[:2], "y": [1.0, 2.0]})
    assert "for no series has two stamps; accepted is a frequency" in said(single)


def test_a_stamp_off_the_grid_is_refused():
    moved = (
        pl.when(pl.int_range(pl.len()) == 7).then(pl.col("ds").dt.offset_by("5m")).otherwise("ds")
    )
    text = said(long().with_columns(ds=moved))
    assert "row 8, column 'ds': series 'a' has the stamp 2024-01-01 07:05:00" in text
    assert "where the frequency '1h' was detected" in text


def test_a_frequency_that_is_not_the_datas_is_refused():
    assert load(long(), freq="h").frequency.text == "1h"
    assert "freq '30m' is not the data's, whose most common step is '1h'" in said(
        long(), freq="30min"
    )
    assert "where the frequency '1d' is not the data's" in said(long(), freq="D")
    assert "freq 1 does not fit stamps that are dates" in said(long(), freq=1)
    assert "freq 'fortnight' is no frequency; accepted are" in said(long(), freq="fortnight")
    whole = long().with_columns(ds=pl.int_range(pl.len()))
    assert "freq '1h' does not fit stamps that are whole numbers" in said(whole, freq="1h")


def test_missing_stamps_are_refused_unless_a_choice_is_made():
    frame = without(long(ids=("a", "b")), 14, 15, 3)
    text = said(frame)
    assert "column 'ds': series 'a' has no row for 2024-01-01 03:00:00" in text
    assert "(3 steps of frequency '1h' are missing, in 2 series)" in text
    assert all(f"gaps='{choice}'" in text for choice in ("mask", "ffill"))
    masked = load(frame, gaps="mask")
    assert np.flatnonzero(np.isnan(masked.y)).tolist() == [3, 14, 15]
    assert any("3 steps between the rows of a series had no row" in note for note in masked.notes)
    assert any("3 values in 2 series are missing and masked" in note for note in masked.notes)
    filled = load(frame, gaps="ffill")
    assert filled.y[[3, 14, 15]].tolist() == [2.0, 3.5, 3.5]


def test_empty_values_are_refused_unless_a_choice_is_made():
    frame = emptied(long(ids=("a", "b")), 12, 13)
    text = said(frame)
    assert text.startswith(
        "the data frame, row 13, column 'y' is empty inside series 'b' (2 values"
    )
    assert load(frame, gaps="ffill").y[12:14].tolist() == [1.5, 1.5]
    assert np.isnan(load(frame, gaps="mask").y[12:14]).all()
    shuffled = frame[::-1]
    assert "row 8, column 'y' is empty" in said(shuffled)


@given(
    y=st.lists(st.none() | st.floats(-9, 9), min_size=2, max_size=12).filter(
        lambda y: sum(value is not None for value in y) > 1
    ),
    cut=st.integers(0, 12),
)
def test_filling_never_reads_the_future(y, cut):
    frame = pl.DataFrame({"ds": HOURS[: len(y)], "y": y}, schema_overrides={"y": pl.Float64})
    first = next(place for place, value in enumerate(y) if value is not None)
    full = load(frame, gaps="ffill")
    part = y[:cut]
    if sum(value is not None for value in part) < 2:
        return
    early = load(frame[:cut], gaps="ffill", freq="1h")
    assert early.y.tolist() == full.y[: len(early.y)].tolist()
    assert early.first == full.first
    assert full.y[0] == y[first]


def test_values_missing_at_the_ends_are_left_out():
    frame = emptied(long(ids=("a", "b")), 0, 1, 18, 19)
    table = load(frame)
    assert table.length.tolist() == [8, 8]
    assert table.first[0] - table.first[1] == 2 * 3_600_000_000
    assert table.y[0] == 2.0
    assert table.notes == (
        "left out 2 steps before the first value of a series, in 1 series",
        "left out 2 steps after the last value of a series, in 1 series",
    )
    assert not table.aligned


def test_rows_ahead_stay_where_covariates_are_known_in_advance():
    frame = emptied(long(), 8, 9).with_columns(t=pl.int_range(pl.len()))
    table = load(frame, future=["t"])
    assert table.length.tolist() == [10]
    assert np.isnan(table.y[8:]).all()
    assert table.future[:, 0].tolist() == list(range(10))
    assert load(frame, past=["t"]).past[:, 0].tolist() == list(range(8))


def test_unsorted_rows_are_sorted_and_counted():
    frame = long(ids=("a", "b", "c"))
    order = [*range(10), 12, 11, 10, *range(13, 30)]
    table = load(frame[order])
    assert table.y.tolist() == frame["y"].to_list()
    assert table.notes == (
        "the rows of 1 series of 3 were not in the order of their stamps (2 rows came too late) and"
        " were sorted",
    )


def test_series_whose_rows_lie_apart_are_brought_together_without_a_note():
    frame = long(ids=("a", "b")).sort("ds", maintain_order=True)
    table = load(frame)
    assert table.notes == ()
    assert table.y.tolist() == load(long(ids=("a", "b"))).y.tolist()
    assert table.data_hash == load(long(ids=("a", "b"))).data_hash


@given(st.permutations(range(12)))
def test_the_order_of_rows_does_not_show(order):
    frame = long(6, ids=("a", "b")).with_columns(x=pl.int_range(pl.len()))
    kept = load(frame, past=["x"])
    moved = load(frame[list(order)], past=["x"])
    both = moved.ids.index("a"), moved.ids.index("b")
    for place, series in enumerate(both):
        own = slice(moved.start[series], moved.start[series + 1])
        assert moved.y[own].tolist() == kept.y[place * 6 : place * 6 + 6].tolist()
        assert moved.past[own].tolist() == kept.past[place * 6 : place * 6 + 6].tolist()


def test_a_constant_series_is_said():
    frame = long(ids=("a", "b")).with_columns(
        y=pl.when(pl.col("unique_id") == "b").then(4.0).otherwise("y")
    )
    (note,) = load(frame).notes
    assert note.startswith("1 series is constant ('b')")


def test_a_stand_in_for_missing_values_is_said_with_its_effect():
    y = np.sin(np.arange(2000.0))
    y[[7, 90]] = -9999.0
    frame = pl.DataFrame({"ds": range(2000), "good": np.sin(np.arange(2000.0)), "bad": y})
    (note,) = load(frame).notes
    assert note.startswith("warning: series 'bad' holds -9999 2 times, far outside")
    numbers = [float(found) for found in re.findall(r"deviation is (\S+) with and (\S+) ", note)[0]]
    rest = np.delete(y, [7, 90])
    assert numbers == pytest.approx([y.std(), rest.std()], rel=1e-3)


@pytest.mark.parametrize(
    "y",
    [
        np.tile([0.0, 1.0], 50),  # two values only
        np.r_[np.zeros(96), np.ones(4)],  # two values, one of them rare
        np.r_[np.arange(100.0, 104.0).repeat(22), np.zeros(12)],  # too many to be stand-ins
        np.r_[np.zeros(50), np.arange(50.0)],  # many zeros, next to the rest
        np.r_[np.arange(97.0), 500.0],  # one outlier that is no stand-in
        np.r_[np.arange(9000, 9999.0), 9999.0],  # 9999 among its neighbours
    ],
)
def test_honest_values_are_no_stand_ins(y):
    assert load(pl.DataFrame({"ds": range(len(y)), "y": y})).notes == ()


def test_however_many_nines_are_stand_ins():
    y = np.r_[np.sin(np.arange(70.0)), np.full(30, -999.0)]
    (note,) = load(pl.DataFrame({"ds": range(100), "y": y})).notes
    assert "holds -999 30 times" in note


def test_repeated_values_far_outside_are_stand_ins():
    y = np.r_[np.arange(100.0, 200.0), [0.0] * 4]
    (note,) = load(pl.DataFrame({"ds": range(len(y)), "y": y})).notes
    assert "holds 0 4 times" in note


def test_many_stand_ins_are_named_in_part():
    y = np.sin(np.arange(100.0))
    y[3] = 99999.0
    frame = pl.DataFrame({"ds": range(100), **{f"s{k}": y for k in range(8)}})
    notes = load(frame).notes
    assert len(notes) == 6
    assert notes[-1] == "warning: so do 3 more series"


def test_a_series_of_one_value_is_refused_but_when_asked_to_predict():
    frame = without(long(ids=("a", "b")), *range(11, 20))
    assert "series 'b' has 1 value; accepted are series of 2 values or more" in said(frame)
    assert load(frame, asking=True).length.tolist() == [10, 1]
    none = long().with_columns(y=pl.lit(None, pl.Float64))
    assert "series 'a' has no value; accepted are series of 1 value or more" in said(
        none, asking=True
    )


def test_an_empty_table_is_refused():
    assert (
        said(long()[:0]) == "the data frame: holds no rows; accepted is a table of two rows or more"
    )


def test_a_leap_in_the_stamps_is_refused_rather_than_filled():
    frame = pl.concat([long(), long()[:1].with_columns(ds=pl.col("ds").dt.offset_by("900y"))])
    text = said(frame, gaps="mask")
    assert "series 'a' goes from 2024-01-01 09:00:00 to 2924-01-01, by far more steps" in text


def test_covariates_that_are_missing_are_refused_or_repeat_the_one_before():
    frame = emptied(long().with_columns(t=pl.int_range(pl.len()).cast(pl.Float64)), 4, column="t")
    text = said(frame, future=["t"])
    assert "column 't': the covariate is empty in row 5 (1 value in all); accepted are" in text
    table = load(frame, future=["t"], gaps="mask")
    assert table.future[3:6, 0].tolist() == [3.0, 3.0, 5.0]
    assert "t: 1 missing value repeat the one before" in table.notes
    first = emptied(frame, 0, column="t")
    assert "or a value in the first row" in said(first, past=["t"], gaps="ffill")


def test_past_covariates_need_not_be_known_ahead():
    frame = emptied(emptied(long(), 8, 9), 8, 9, column="y")
    frame = emptied(frame.with_columns(p=pl.col("y"), f=pl.lit(1.0)), 8, 9, column="p")
    table = load(frame, past=["p"], future=["f"])
    assert table.past[7, 0] == 7.0
    assert np.isfinite(table.past).all()
    ahead = emptied(frame, 9, column="f")
    assert "column 'f': the covariate is empty in row 10" in said(ahead, future=["f"])


def test_facts_of_a_series_must_be_constant_and_there():
    frame = long(ids=("a", "b")).with_columns(
        kind=pl.col("unique_id").replace({"a": "shop", "b": "home"}), size=pl.lit(3)
    )
    table = load(frame, static=["kind", "size"])
    assert table.static_names == ("kind=home", "kind=shop", "size")
    assert table.static.tolist() == [[0, 1, 3], [1, 0, 3]]
    moved = frame.with_columns(
        kind=pl.when(pl.int_range(pl.len()) == 13).then(pl.lit("x")).otherwise("kind")
    )
    assert "row 14, column 'kind' holds 'x' but 'home' before in series 'b'" in said(
        moved, static=["kind"]
    )
    none = frame.with_columns(kind=pl.lit(None, pl.String))
    assert "row 1, column 'kind' is empty; accepted is a fact for" in said(none, static=["kind"])


def test_rows_taken_in_their_order_keep_their_stamps():
    frame = without(long(ids=("a", "b")), 4, 16)
    frame = pl.concat([frame, frame[-1:]])
    table = load(frame, stamps="order")
    assert table.frequency.kind == "order"
    assert table.length.tolist() == [9, 10]
    assert table.stamps.tolist() == frame["ds"].to_physical().to_list()
    assert table.frequency.season == 24
    mixed = load(frame[[9, 0, 10, 1, 2]], stamps="order")
    assert mixed.ids == ("b", "a")
    assert mixed.y.tolist() == [0.5, 1.5, 0.0, 1.0, 2.0]
    bare = load(pl.DataFrame({"y": [3.0, 1.0, 2.0]}), stamps="order", season=7)
    assert (bare.stamps, bare.frequency.season, bare.y.tolist()) == (None, 7, [3.0, 1.0, 2.0])


def test_a_wide_table_keeps_its_series_aligned():
    frame = pl.DataFrame({"date": HOURS[:6], "a": range(6), "b": [None, None, 2.0, 3.0, 4.0, None]})
    table = load(frame)
    assert table.aligned
    assert np.isnan(table.y[[6, 7, 11]]).all()
    (note,) = table.notes
    assert note.startswith("1 series of 2 begin later or end earlier")
    inside = frame.with_columns(b=pl.Series([0.0, None, 2.0, 3.0, 4.0, 5.0]))
    assert "row 2, column 'b' is empty inside series 'b'" in said(inside)
    assert load(inside, gaps="ffill").y[6:9].tolist() == [0.0, 0.0, 2.0]


def test_filling_stays_within_a_series_and_between_its_values():
    a, b = [1.0, 2, 3, 4, 5, None], [None, 7.0, None, 9, 10, 11]
    table = load(pl.DataFrame({"date": HOURS[:6], "a": a, "b": b}), gaps="ffill")
    assert table.y.tolist() == pytest.approx(
        [1, 2, 3, 4, 5, np.nan, np.nan, 7, 7, 9, 10, 11], nan_ok=True
    )


@pytest.mark.parametrize("block", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("moved", [None, 4, 9, 10, 19])
def test_rows_looked_through_in_blocks_are_judged_as_a_whole(block, moved, monkeypatch):
    frame = long(ids=("a", "b"))
    if moved is not None:
        frame = put(frame, moved, pl.col("ds").dt.offset_by("1h"), "ds")

    def outcome():
        try:
            return load(frame, gaps="mask").data_hash
        except InputError as error:
            return str(error)

    whole = outcome()
    monkeypatch.setattr(grid, "_BLOCK_ROWS", block)
    assert outcome() == whole


def test_a_wide_table_without_values_at_its_ends_is_cut():
    frame = pl.DataFrame(
        {"date": HOURS[:6], "a": [None, 1.0, 2, 3, 4, None], "b": [None, 2.0, 3, 4, 5, None]}
    )
    table = load(frame)
    assert table.length.tolist() == [4, 4]
    assert table.first.tolist() == [HOURS.to_physical()[1]] * 2
    assert table.notes == (
        "left out 1 step before the first value",
        "left out 1 step after the last value",
    )


def test_the_content_alone_makes_the_hash():
    one = load(long(ids=("a", "b")))
    assert load(long(ids=("a", "b")), name="other").data_hash == one.data_hash
    for other in (
        long(ids=("a", "c")),
        long(11, ids=("a", "b")),
        long(ids=("a", "b")).with_columns(ds=pl.col("ds").dt.offset_by("1h")),
        long(ids=("a", "b")).with_columns(y=pl.col("y") + 1),
    ):
        assert load(other).data_hash != one.data_hash
