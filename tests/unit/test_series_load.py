"""Series from files, frames and names: layouts, what is read and what is not, the real sets."""

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from kt_forecast.data.cards import CARDS_VARIABLE, DATA_VARIABLE, find_data
from kt_forecast.data.series.load import load
from kt_forecast.data.series.splits import ByProtocol, split
from kt_forecast.data.series.summary import summary
from kt_forecast.errors import InputError

DATASETS = Path(__file__).parents[2] / "datasets"
DATA = Path(os.environ.get("KT_FORECAST_DATA", Path(__file__).parents[3] / "shared" / "data"))
WIDE = "date,a,b\n2024-01-01 00:00:00,1,10\n2024-01-01 01:00:00,2,20\n2024-01-01 02:00:00,3,30\n"
LONG = pl.DataFrame(
    {
        "unique_id": ["x"] * 3 + ["y"] * 3,
        "ds": [1, 2, 3] * 2,
        "y": [1.0, 2, 3, 10, 20, 30],
        "t": [0, 1, 0, 1, 1, 1],
    }
)


@pytest.fixture
def file(tmp_path):
    def write(text, name="mine.csv", encoding="utf-8"):
        path = tmp_path / name
        raw = text.encode(encoding)
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    return write


def said(source, **options):
    with pytest.raises(InputError) as error:
        load(source, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mine.csv", lambda text: text),
        ("mine.csv.gz", lambda text: text),
        ("mine.tsv", lambda text: text.replace(",", "\t")),
        ("semicolons.csv", lambda text: text.replace(",", ";")),
        ("crlf.csv", lambda text: text.replace("\n", "\r\n")),
        ("no_end.csv", lambda text: text.rstrip("\n")),
        ("blanks.csv", lambda text: text.replace(",", ", ")),
        ("mark.csv", lambda text: "\ufeff" + text),
    ],
)
def test_wide_text_is_read_however_it_is_written(file, name, change):
    table = load(file(change(WIDE), name))
    assert table.ids == ("a", "b")
    assert table.y.tolist() == [1, 2, 3, 10, 20, 30]
    assert table.frequency.text == "1h"
    assert table.name == name.split(".")[0]
    assert table.id_name == ""


def test_a_latin_1_header_gives_its_own_names(file):
    table = load(file(WIDE.replace("b", "T (°C)", 1), encoding="latin-1"))
    assert table.ids == ("a", "T (°C)")
    assert table.notes[0] == "mine.csv is not UTF-8 and was read as latin-1."


@pytest.mark.parametrize("how", ["polars", "lazy", "pandas", "csv", "parquet", "text path"])
def test_a_long_table_is_the_same_from_wherever_it_comes(how, tmp_path):
    path = tmp_path / "long.csv"
    if how == "parquet":
        LONG.write_parquet(path)
    else:
        LONG.write_csv(path)
    sources = {
        "polars": LONG,
        "lazy": LONG.lazy(),
        "pandas": LONG.to_pandas(),
        "text path": str(path),
    }
    table = load(sources.get(how, path), future=["t"])
    assert table.ids == ("x", "y")
    assert table.future[:, 0].tolist() == [0, 1, 0, 1, 1, 1]
    assert table.future_names == ("t",)
    assert table.data_hash == load(LONG, future=["t"]).data_hash
    assert load(table) is table


def test_a_lazy_plan_is_run_once():
    runs = []

    def counted(frame):
        runs.append(1)
        return frame

    plan = LONG.lazy().map_batches(counted, schema=LONG.schema)
    load(plan, future=["t"])
    assert len(runs) == 1


def test_names_are_mapped():
    own = LONG.rename({"unique_id": "shop", "ds": "week", "y": "sales"})
    columns = {"unique_id": "shop", "ds": "week", "y": "sales"}
    table = load(own, columns=columns)
    assert (table.ids, table.id_name) == (("x", "y"), "shop")
    assert table.notes == ("not read, for no use was declared: t",)
    text = said(own, columns={**columns, "y": "sale"})
    assert "there is no column 'sale' (y); did you mean 'sales'?" in text
    assert "columns: 'past' is none of unique_id, ds, y" in said(own, columns={"past": "t"})


def test_a_table_of_one_series_needs_no_ids():
    table = load(pl.DataFrame({"date": [1, 2, 3], "y": [1.0, 2, 3], "z": 0}))
    assert (table.ids, table.n_rows) == (("y",), 3)
    assert table.notes == ("not read, for no use was declared: z",)
    named = load(
        pl.DataFrame({"when": [1, 2], "load": [1.0, 2]}), columns={"ds": "when", "y": "load"}
    )
    assert named.ids == ("load",)


def test_layouts_can_be_named():
    frame = pl.DataFrame({"ds": [1, 2, 3], "y": [1.0, 2, 3], "z": [5.0, 6, 7]})
    assert load(frame).ids == ("y",)
    assert load(frame, format="wide").ids == ("y", "z")
    assert "no column 'y' among ds, z" in said(frame.drop("y"), format="long")


def test_covariates_of_a_wide_table_are_of_all_its_series(file):
    path = file("date, price a,b,f g\n2024-01-01,1,2,7\n2024-01-02,3,4,8\n2024-01-03,5,6,9\n")
    table = load(path, future=["f g"])
    assert table.ids == ("price a", "b")
    assert table.future[:, 0].tolist() == [7, 8, 9, 7, 8, 9]
    assert table.stamp_type == pl.Date
    assert "a wide table, with a column for each series, holds no facts" in said(path, static=["b"])
    assert "no column is left to be a series" in said(path, past=["price a", "b", "f g"])


def test_what_a_pandas_index_says_is_read():
    index = pd.date_range("2024-01-01", periods=4, freq="D")
    wide = pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [5.0, 6, 7, 8]}, index=index)
    assert load(wide).ids == ("a", "b")
    assert load(wide.rename_axis("when")).frequency.text == "1d"
    assert load(wide["a"]).ids == ("a",)
    periods = wide.set_axis(pd.period_range("2024-01", periods=4, freq="M"), axis=0)
    assert load(periods).frequency.text == "1mo"
    long = LONG.to_pandas()
    assert load(long.set_index(["unique_id", "ds"])).ids == ("x", "y")
    assert load(long.set_index("unique_id")).ids == ("x", "y")
    assert load(long[::-1]).y.tolist() == [10, 20, 30, 1, 2, 3]


def test_a_users_array_is_not_ours():
    frame = LONG.to_pandas()
    table = load(frame)
    frame.loc[0, "y"] = 99.0
    assert table.y.tolist() == LONG["y"].to_list()


def test_ids_are_text_whatever_they_were():
    for ids in ([1, 1, 1, 2, 2, 2], ["1"] * 3 + ["2"] * 3):
        frame = LONG.with_columns(unique_id=pl.Series(ids))
        assert load(frame).ids == ("1", "2")
        assert load(
            frame.with_columns(pl.col("unique_id").cast(pl.String).cast(pl.Categorical))
        ).ids == ("1", "2")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"past": ["tt"]}, "there is no column 'tt' (past); did you mean 't'?"),
        ({"past": ["t"], "future": ["t"]}, "column 't' is declared future and is past too"),
        ({"future": ["y"]}, "column 'y' is declared future and is the table's own too"),
        ({"gaps": "backward"}, "gaps='backward' is unknown; accepted are refuse, mask, ffill"),
        ({"stamps": "no"}, "stamps='no' is unknown; accepted are auto, dates, order"),
        ({"format": "tall"}, "format='tall' is unknown; accepted are auto, long, wide"),
    ],
)
def test_what_cannot_be_asked_is_refused(options, text):
    assert text in said(LONG, **options)


def test_what_is_no_table_of_series_is_refused(file, tmp_path):
    assert "a list is no table of series; accepted are a path" in said([1, 2])
    assert "does not exist" in said(tmp_path / "none.csv")
    assert "is a folder; accepted is a CSV, TSV or Parquet file" in said(tmp_path)
    assert "has 'unique_id' but no column 'y' among" in said(LONG.drop("y"))
    assert "no column of stamps was found" in said(pl.DataFrame({"a": [1.5, 2.5], "b": [1.5, 2]}))
    assert "line 4, column 'b' holds 'much'" in said(file(WIDE.replace("30", "much")))
    wide_row = said(file(WIDE + "2024-01-01 03:00:00,1,2,3\n"))
    assert "line 5: 4 columns under a header of 3; accepted are rows of the same" in wide_row
    assert "'sample' is a data set for knowledge_tracing, not of series" in said("sample")
    mixed = pd.DataFrame({"ds": [1, 2], "y": [1.0, "two"]})
    assert "column 'y', mixes types" in said(mixed)


REAL = {
    # rows, series, frequency, season, ends of the roles of the first series
    "etth1": (17420, 7, "1h", 24, (8640, 11520, 14400)),
    "etth2": (17420, 7, "1h", 24, (8640, 11520, 14400)),
    "ettm1": (69680, 7, "15m", 96, (34560, 46080, 57600)),
    "ettm2": (69680, 7, "15m", 96, (34560, 46080, 57600)),
    "weather": (52696, 21, "order", 144, (36887, 42157, 52696)),
    "exchange": (7588, 8, "order", 5, (5311, 6071, 7588)),
    "ili": (966, 7, "1w", 52, (676, 773, 966)),
    "epf_be": (52416, 1, "1h", 24, (36691, 41933, 52416)),
    "epf_de": (52416, 1, "1h", 24, (36691, 41933, 52416)),
    "epf_fr": (52416, 1, "1h", 24, (36691, 41933, 52416)),
    "epf_np": (52416, 1, "1h", 24, (36691, 41933, 52416)),
    "epf_pjm": (52416, 1, "1h", 24, (36691, 41933, 52416)),
}


@pytest.fixture
def real(monkeypatch):
    monkeypatch.setenv(CARDS_VARIABLE, str(DATASETS))
    monkeypatch.setenv(DATA_VARIABLE, str(DATA))

    def path(name):
        try:
            return find_data(name)
        except InputError:
            pytest.skip(f"the data set {name} is not here")

    return path


@pytest.mark.parametrize("name", REAL)
def test_the_real_sets_load_by_name_with_their_published_borders(real, name):
    real(name)
    rows, n_series, freq, season, borders = REAL[name]
    table = load(name)
    assert (int(table.length[0]), table.n_series) == (rows, n_series)
    assert (table.frequency.text, table.frequency.season) == (freq, season)
    assert (table.name, table.aligned) == (name, True)
    assert len(table.future_names) == (2 if name.startswith("epf") else 0)
    found = split(table, ByProtocol())
    assert (found.train_end[0], found.valid_end[0], found.test_end[0]) == borders
    assert np.isfinite(table.y).all()
    assert dict(summary(table))["series"] == str(n_series)


def test_values_of_a_real_set_stand_where_its_file_has_them(real):
    real("etth1")
    table = load("etth1")
    assert table.ids[0] == "HUFL"
    assert table.y[0] == 5.827000141143799
    assert table.y[table.start[6]] == 30.5310001373291
    assert summary(table)[6:8] == [
        ("first stamp", "2016-07-01 00:00:00"),
        ("last stamp", "2018-06-26 19:00:00"),
    ]


def test_weather_is_refused_by_its_stamps_and_warned_of_by_its_name(real):
    path = real("weather")
    text = said(path)
    assert "column 'date': the table has the stamp 2020-05-12 06:00:00 twice" in text
    assert "stamps='order', which takes the rows" in text
    notes = load("weather").notes
    assert [note.split("'")[1].split(" (")[0] for note in notes] == ["wv", "max. PAR", "OT"]
    assert [
        f"holds -9999 {times} time" in note for times, note in zip((1, 30, 50), notes, strict=True)
    ] == [True] * 3
    assert "is 43.6 with and 1.602 without it" in notes[0]


def test_gaps_of_weather_can_be_filled_without_its_repeated_row(real):
    frame = pl.read_csv(real("weather"), try_parse_dates=True).unique("date", maintain_order=True)
    assert "has no row for" in said(frame)
    table = load(frame, gaps="ffill")
    assert table.frequency.text == "10m"
    assert np.isfinite(table.y).all()


def test_a_summary_says_what_there_is():
    found = dict(summary(load(LONG, future=["t"])))
    assert found["series"] == "2"
    assert found["rows a series"] == "3"
    assert (found["first stamp"], found["last stamp"]) == ("1", "3")
    assert (found["known in advance"], found["known up to the origin"]) == ("t", "none")
    masked = load(LONG[[0, 2, 3, 4, 5]], gaps="mask")
    assert dict(summary(masked))["missing values"] == "1 (16.7%)"
    bare = dict(summary(load(pl.DataFrame({"y": [1.0, 2.0]}), stamps="order")))
    assert (bare["first stamp"], bare["frequency"]) == ("none", "order")
