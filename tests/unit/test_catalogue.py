import pytest

from kt_forecast.catalogue import catalogue, entry, find, names, serves, serving
from kt_forecast.errors import InputError


def test_every_word_of_both_folders_is_reached():
    assert {"gpt", "item_mean", "logistic", "dkt", "ridge", "seasonal_naive"} <= set(names())
    assert [row[0] for row in catalogue()] == names()
    for name in names():
        shown = entry(name)
        assert shown["page"]
        assert shown["paper"]
        assert shown["url"].startswith("https://")
    shown = entry("gpt")
    assert "Departures from the paper:" in shown["page"]
    assert "training T^2" in shown["promises"]
    assert ("layers", "1", "1, 2, 4") in shown["settings"]


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("gpt", ("students", "series")),
        ("informer", ("students", "series")),
        ("patchtst", ("series",)),
        ("ridge", ("series",)),
        ("bkt", ("students",)),
    ],
)
def test_a_row_says_what_a_system_is_for(name, tasks):
    assert serves(find(name)) == tasks
    assert entry(name)["serves"] == ", ".join(tasks)
    assert {row[0]: row[2] for row in catalogue()}[name] == ", ".join(tasks)
    for task in ("students", "series"):
        assert (name in serving(task)) == (task in tasks)


def test_an_unknown_word_gets_the_nearest():
    with pytest.raises(InputError, match="did you mean 'nlinear'"):
        find("nlinaer")
