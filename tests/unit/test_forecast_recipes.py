import polars as pl
import pytest

from kt_forecast.data.series.splits import ByLast, ByMoment, ByProtocol, ByShare
from kt_forecast.errors import InputError
from kt_forecast.experiment import series
from kt_forecast.experiment.forecasting import plans
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.recipe_base import shipped
from kt_forecast.experiment.recipe_forecast import ForecastRecipe, SeriesRecipe
from kt_forecast.experiment.which import parse_data, parse_recipe, read_recipe, task_of

PLAIN = {"data": {"source": "x"}, "forecasting": {"horizon": 4}}


def recipe(**changes):
    return ForecastRecipe.parse(PLAIN | changes, "test")


def test_the_task_of_a_file_chooses_the_class(tmp_path):
    assert isinstance(read_recipe(shipped("demo")), Recipe)
    assert isinstance(read_recipe(shipped("demo_forecast")), ForecastRecipe)
    path = tmp_path / "mine.toml"
    path.write_text("task = 'weather'\n[data]\nsource = 'x'\n")
    with pytest.raises(InputError, match="accepted are knowledge_tracing and forecasting"):
        read_recipe(path)
    path.write_text("task = 'forecasting'\n[data]\nsource = 'x'\nfrequency = '1h'\n")
    with pytest.raises(InputError, match=r"mine.toml: .*frequency"):
        read_recipe(path)


def test_what_is_written_is_read_back_the_same(tmp_path):
    path = tmp_path / "my_series.toml"
    made = read_recipe(shipped("my_series"))
    path.write_text(made.to_toml())
    assert read_recipe(path).to_toml() == made.to_toml()


def test_each_horizon_and_seed_is_a_recipe_of_its_own():
    several = recipe(horizons=[4, 8], seeds=[0, 1])
    each = several.each("mine")
    assert [one.title() for one in each] == [
        "mine-h4-seed0",
        "mine-h4-seed1",
        "mine-h8-seed0",
        "mine-h8-seed1",
    ]
    assert [one.forecasting["horizon"] for one in each] == [4, 4, 8, 8]
    assert [one.seed for one in each] == [0, 1, 0, 1]
    assert not any(one.horizons or one.seeds for one in each)
    for wrong in ({"horizons": [4, 4]}, {"seeds": [1, 1]}, {"horizons": [0]}):
        with pytest.raises(InputError):
            recipe(**wrong)


def test_another_system_takes_over_the_task_and_names_what_it_cannot():
    given = {"horizon": 4, "context": 24, "patch": 8, "dense": True, "normalisation": "window"}
    own = {"system": "gpt", "settings": {"width": 8}}
    told = {"name": "mine", "forecasting": given, "training": {"epochs": 2}}
    first, heard = recipe(model=own, **told), []
    mixer = first.with_system("retnet", trained=True, say=heard.append)
    assert (mixer.forecasting, mixer.model.settings, heard) == (given, {}, [])
    assert plans(mixer)[0].forecasting.dense
    network = first.with_system("nlinear", trained=True, say=heard.append)
    assert network.forecasting == {"horizon": 4, "context": 24, "patch": 8}
    assert (network.training, network.title()) == ({"epochs": 2}, "mine-nlinear")
    assert heard == ["mine-nlinear: dense, normalisation of the recipe are not for nlinear"]
    fitted = first.with_system("ridge", trained=False, say=heard.append)
    assert (fitted.training, fitted.forecasting) == ({}, {"horizon": 4, "context": 24})
    assert heard[1].startswith("mine-ridge: patch, dense, normalisation of")
    assert plans(fitted)[0].horizon == 4
    ridge = given | {"dense": False, "start": "ridge", "linear": 24}
    begun = recipe(model=own, **(told | {"forecasting": ridge}))
    assert begun.with_system("retnet", trained=True).forecasting == ridge
    assert "start" not in begun.with_system("nlinear", trained=True).forecasting


def test_another_table_gives_the_run_its_name():
    mine = recipe(name="mine")
    assert mine.on({"source": "a folder/own table.csv"}, "test").title() == "mine-own_table"
    assert mine.on({"gaps": "mask"}, "test").title() == "mine"


def test_the_sceptics_baselines_always_stand_beside():
    chosen, beside = plans(recipe(model={"system": "nlinear"}))
    assert [one.name for one in beside] == ["seasonal_naive", "ridge"]
    assert {one.horizon for one in (chosen, *beside)} == {4}
    _, beside = plans(recipe(model={"system": "ridge"}, baselines={"systems": ["drift"]}))
    assert [one.name for one in beside] == ["seasonal_naive", "drift"]
    own = {"settings": {"ridge": {"context": 12}}}
    _, beside = plans(recipe(baselines=own))
    assert beside[1].settings.context == 12
    with pytest.raises(InputError, match="'theta' does not stand beside"):
        plans(recipe(baselines={"settings": {"theta": {}}}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"training": {"epohcs": 1}}, "did you mean 'epochs'"),
        ({"forecasting": {"horizn": 1}}, "did you mean 'horizon'"),
        ({"model": {"system": "gtp"}}, "did you mean 'gpt'"),
        ({"model": {"system": "logistic"}}, "traces students"),
        ({"baselines": {"systems": ["rigde"]}}, "did you mean 'ridge'"),
        ({"evaluation": {"protocols": ["ltfs"]}}, "ltsf"),
        ({"split": {"kind": "lsat"}}, "'last'"),
        ({"split": {"kind": "last", "tst": 1}}, "test"),
    ],
)
def test_settings_are_checked_before_anything_is_read(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        plans(recipe(**changes))


def long_table(folder, name="long.csv", **more):
    path = folder / name
    pl.DataFrame({"unique_id": ["a"] * 30, "ds": range(30), "y": range(30)} | more).write_csv(path)
    return path


def test_a_table_of_series_is_told_by_its_columns(tmp_path):
    path = long_table(tmp_path)
    task, said = task_of({"source": str(path)})
    assert task == "forecasting"
    assert "unique_id, ds, y" in said
    assert "--task knowledge_tracing" in said
    wide = tmp_path / "wide.csv"
    wide.write_text("date,load,oil\n2024-01-01,1,2\n2024-01-02,2,3\n")
    task, said = task_of({"source": str(wide)})
    assert task == "forecasting"
    assert "'date'" in said
    monthly = tmp_path / "monthly.csv"
    monthly.write_text("Month,sold\n2024-01-01,1\n2024-02-01,2\n")
    assert task_of({"source": str(monthly)})[0] == "forecasting"
    answers = tmp_path / "answers.csv"
    answers.write_text("time,student,question,response\n1,a,1,1\n")
    assert task_of({"source": str(answers)}) == ("knowledge_tracing", "")
    other = tmp_path / "other.csv"
    other.write_text("user_id,correct\na,1\n")
    assert task_of({"source": str(other)}) == ("knowledge_tracing", "")


def test_what_is_said_of_the_columns_decides_without_a_look():
    for more in ({"freq": "1h"}, {"columns": {"ds": "date"}}, {"future": ["price"]}):
        assert task_of({"source": "no such file"} | more) == ("forecasting", "")
    for more in ({"columns": {"student": "who"}}, {"repeats": "merge"}):
        assert task_of({"source": "no such file"} | more) == ("knowledge_tracing", "")
    assert task_of({"source": "series_sample"}) == ("forecasting", "")
    assert task_of({"source": "sample"}) == ("knowledge_tracing", "")
    with pytest.raises(InputError, match="task is 'x'"):
        parse_recipe(PLAIN, "x", "--task")
    assert isinstance(parse_data({"source": "x"}, "forecasting", "test"), SeriesRecipe)


def table_of(rows, n_series=2):
    frame = pl.DataFrame(
        {
            "unique_id": [f"s{i}" for i in range(n_series) for _ in range(rows)],
            "ds": [*range(rows)] * n_series,
            "y": [float(i % 7) for i in range(n_series * rows)],
        }
    )
    return series.series_of(frame)


def test_a_split_that_is_not_named_follows_card_then_time_then_the_last_steps():
    table = table_of(100)
    assert series.divided(table, None, "mine.csv", 5).settings == ByMoment()
    assert series.divided(table, None, "series_sample", 5).settings == ByShare()
    assert series.divided(table, None, "exchange", 5).settings == ByProtocol()
    # A tenth of a hundred rows holds no window of twelve steps.
    assert series.divided(table, None, "mine.csv", 12).settings == ByLast(test=12, valid=12)
    assert series.divided(table, ByShare(), "mine.csv", 12).settings == ByShare()
    with pytest.raises(InputError, match="too few to train, validate and test 40"):
        series.divided(table, None, "mine.csv", 40)


def test_what_the_card_says_is_settled():
    found = series.settled(SeriesRecipe(source="series_sample"))
    assert found.future == ("temperature", "holiday")
    assert found.source == "series_sample"
    own = series.settled(SeriesRecipe(source="series_sample", future=("holiday",)))
    assert own.future == ("holiday",)
