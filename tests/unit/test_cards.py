"""Cards: typed, complete, and found without a list."""

from pathlib import Path

import pytest

from kt_forecast.data.cards import (
    CARDS_VARIABLE,
    DATA_VARIABLE,
    card_names,
    cards_folder,
    find_data,
    read_card,
)
from kt_forecast.data.readers import formats
from kt_forecast.data.tables import load
from kt_forecast.errors import InputError
from kt_forecast.schema import COLUMNS, DS, UNIQUE_ID, Y

DATASETS = Path(__file__).parents[2] / "datasets"
CARD = """
title = "Mine"
description = "d"
task = "knowledge_tracing"
licence = "mine"
citation = "none"
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "card.toml").write_text(CARD)
    monkeypatch.setenv(CARDS_VARIABLE, str(tmp_path))
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    return tmp_path


@pytest.mark.parametrize("name", sorted(path.parent.name for path in DATASETS.glob("*/card.toml")))
def test_every_card_is_complete(name, monkeypatch):
    monkeypatch.setenv(CARDS_VARIABLE, str(DATASETS))
    card = read_card(name)
    students = card.task == "knowledge_tracing"
    assert card.format == "auto" or card.format in (formats() if students else {"long", "wide"})
    assert set(card.columns) <= set(COLUMNS if students else (UNIQUE_ID, DS, Y))
    assert students or card.split
    assert card.description.strip()
    assert card.simulated or (card.homepage and (card.files or card.obtain))
    assert f"`{name}`" in (DATASETS / "README.md").read_text()


def test_no_package_among_the_data_sets():
    assert not list(DATASETS.rglob("__init__.py"))


def test_cards_are_found_from_a_folder_below(monkeypatch):
    monkeypatch.delenv(CARDS_VARIABLE, raising=False)
    monkeypatch.chdir(Path(__file__).parent)
    assert cards_folder() == DATASETS
    assert "sample" in card_names()


def test_cards_of_ones_own(own):
    assert card_names() == ["mine"]
    assert read_card("mine").title == "Mine"
    with pytest.raises(InputError, match=r"no data set 'mine2' in .*; did you mean 'mine'"):
        read_card("mine2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = ", "not valid TOML"),
        (CARD + 'formt = "auto"', "unknown key 'formt'; did you mean 'format'"),
        (
            CARD.replace("knowledge_tracing", "chess"),
            "task: Input should be 'knowledge_tracing' or 'forecasting'",
        ),
        (CARD + '[[files]]\nurl = "ftp://x"\nname = "a"', "files.0.url"),
        (CARD + '[[files]]\nurl = "http://x"\nname = "../a"', "files.0.name"),
        (CARD + '[[files]]\nurl = "http://x"\nname = "a"\nsha256 = "12"', "files.0.sha256"),
    ],
)
def test_a_card_that_is_none_is_refused(own, text, said):
    (own / "mine" / "card.toml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_card("mine")


def test_the_data_are_found_in_the_raw_folder_or_elsewhere(own, tmp_path, monkeypatch):
    (own / "mine" / "card.toml").write_text(CARD + 'homepage = "http://h"\nobtain = "ask"')
    with pytest.raises(InputError, match=r"the data of 'mine' are not in .*raw; ask \(http://h\)"):
        find_data("mine")
    kept = tmp_path / "kept" / "kt" / "mine"
    kept.mkdir(parents=True)
    (kept / "a.csv").write_text("student,question,response\n1,2,0\n1,3,1\n")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "kept"))
    assert find_data("mine") == kept / "a.csv"
    raw = own / "mine" / "raw"
    raw.mkdir()
    (raw / "b.zip.part").touch()
    assert find_data("mine") == kept / "a.csv"
    (raw / "c.csv").write_text("student,question,response\n1,2,0\n1,3,1\n2,2,1\n")
    assert find_data("mine") == raw / "c.csv"
    loaded = load("mine")
    assert (len(loaded), loaded.name) == (3, "mine")
    (raw / "d.csv").touch()
    assert find_data("mine") == raw


def test_a_set_to_be_fetched_says_so(own):
    text = CARD + '[[files]]\nurl = "http://x/a.csv"\nname = "a.csv"'
    (own / "mine" / "card.toml").write_text(text)
    with pytest.raises(InputError, match="fetch 'mine' first"):
        find_data("mine")


def test_series_are_found_among_the_series_or_where_the_card_says(own, tmp_path, monkeypatch):
    text = CARD.replace("knowledge_tracing", "forecasting")
    kept = tmp_path / "kept" / "series"
    (kept / "mine").mkdir(parents=True)
    (kept / "mine" / "a.csv").write_text("date,a\n2020-01-01,1\n2020-01-02,2\n")
    (kept / "b.csv").write_text("date,a\n2020-01-01,1\n2020-01-02,2\n")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "kept"))
    (own / "mine" / "card.toml").write_text(text)
    assert find_data("mine") == kept / "mine" / "a.csv"
    (own / "mine" / "card.toml").write_text(text + 'kept = "series/b.csv"')
    assert find_data("mine") == kept / "b.csv"


def test_series_are_no_answers_of_students(own):
    (own / "mine" / "card.toml").write_text(CARD.replace("knowledge_tracing", "forecasting"))
    with pytest.raises(InputError, match="'mine' is a data set for forecasting, not of students'"):
        load("mine")
