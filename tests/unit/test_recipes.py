import tomllib

import pytest

from kt_forecast.data.splits import ByFolds, ByStudents
from kt_forecast.errors import InputError
from kt_forecast.experiment.flow import plans
from kt_forecast.experiment.forecasting import plans as series_plans
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.recipe_base import PIPELINES, shipped
from kt_forecast.experiment.recipe_forecast import ForecastRecipe
from kt_forecast.experiment.which import read_recipe

SHIPPED = sorted(path.stem for path in shipped("demo").parent.glob("*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_whole(name):
    recipe = read_recipe(shipped(name))
    series = isinstance(recipe, ForecastRecipe)
    chosen, beside = series_plans(recipe) if series else plans(recipe)
    assert chosen.name == recipe.model.system
    sceptics = {"seasonal_naive", "ridge"} if series else {"item_mean", "logistic"}
    assert sceptics <= {chosen.name, *(one.name for one in beside)}
    assert recipe.title() == name


def test_the_folder_of_recipes_is_known():
    assert shipped("demo").parent.name == PIPELINES
    assert {"demo", "demo_forecast", "my_table", "my_series", "ltsf_ridge"} <= set(SHIPPED)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[data]\nsource = 'x'\n[modle]\n", "unknown key 'modle'; did you mean 'model'"),
        ("[data]\nsource = 'x'\n[model]\nsytem = 'gpt'\n", "did you mean 'system'"),
        ("[data]\nsource = 'x'\n[split]\nkind = 'students'\nvlid = 0.1\n", "did you mean 'valid'"),
        ("[data]\nsource = 'x'\n[split]\nkind = 'studnts'\n", "'students'"),
        ("[data]\nsorce = 'x'\n", "source"),
        ("[data]\nsource = 'x'\nmin_interactions = 0\n", "greater than or equal to 1"),
        ("[data\n", "not valid TOML"),
        ("", "data"),
    ],
)
def test_what_a_recipe_may_not_hold_is_named_with_its_file(text, sentence, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence) as refused:
        Recipe.read(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[training]\nepochs = 3\n", "mine.toml: data is missing"),
        ("[data]\nsource = 'x'\n[split]\nkind = 'x'\n", "'students', 'folds', 'time', 'fraction'"),
    ],
)
def test_a_refusal_does_not_repeat_the_whole_table(text, sentence, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        Recipe.read(path)
    assert str(refused.value).endswith(sentence)


def test_a_rule_between_settings_is_said_in_its_own_words():
    with pytest.raises(InputError) as refused:
        plans(Recipe.parse({"data": {"source": "x"}, "model": {"settings": {"heads": 5}}}, "x"))
    assert str(refused.value).startswith("settings of gpt: heads must divide width")
    assert "{" not in str(refused.value)


@pytest.mark.parametrize("kind", ["folds", "time", "fraction"])
def test_a_split_of_another_kind_takes_the_place_of_the_recipes(kind):
    recipe = Recipe.read(shipped("demo")).with_sets([f"split.kind={kind}"])
    assert recipe.split.kind == kind
    same = Recipe.read(shipped("demo")).with_sets(["split.kind=students"])
    assert same.split == Recipe.read(shipped("demo")).split


def test_a_date_may_stand_without_quotes(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[data]\nsource = 'x'\n[split]\nkind = 'time'\ncut = 2024-01-31\n")
    recipe = Recipe.read(path)
    assert recipe.split.cut == "2024-01-31"
    assert recipe.with_sets(["split.cut=2024-02-01T10:00:00"]).split.cut == "2024-02-01T10:00:00"
    assert Recipe.parse(tomllib.loads(recipe.to_toml()), "again").split == recipe.split


def test_a_table_is_found_here_or_beside_the_recipe(tmp_path, monkeypatch):
    folder = tmp_path / "study"
    folder.mkdir()
    path = folder / "mine.toml"
    path.write_text("[data]\nsource = 'answers.csv'\n")
    monkeypatch.chdir(tmp_path)
    assert Recipe.read(path).data.source == "answers.csv"
    (folder / "answers.csv").write_text("")
    assert Recipe.read(path).data.source == str(folder / "answers.csv")
    (tmp_path / "answers.csv").write_text("")
    assert Recipe.read(path).data.source == "answers.csv"
    whole = tomllib.loads(Recipe.read(path).to_toml())
    assert whole["data"]["source"] == str(tmp_path / "answers.csv")
    assert tomllib.loads(Recipe.read(shipped("demo")).to_toml())["data"]["source"] == "sample"


def test_a_recipe_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'demo'"):
        shipped("demmo.toml")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"training": {"epohcs": 1}}, "did you mean 'epochs'"),
        ({"model": {"settings": {"hedas": 2}}}, "did you mean 'heads'"),
        ({"tracing": {"sheme": "late"}}, "did you mean 'scheme'"),
        ({"model": {"system": "gtp"}}, "did you mean 'gpt'"),
        ({"baselines": {"systems": ["itme_mean"]}}, "did you mean 'item_mean'"),
        ({"evaluation": {"protocols": ["pkyt"]}}, "did you mean 'pykt'"),
        ({"evaluation": {"protocols": []}}, "protocols is empty"),
    ],
)
def test_settings_are_checked_before_anything_is_read(settings, sentence):
    recipe = Recipe.parse({"data": {"source": "no such table"}} | settings, "test")
    with pytest.raises(InputError, match=sentence):
        plans(recipe)


def test_dotted_keys_replace_values():
    recipe = Recipe.parse({"data": {"source": "x"}, "training": {"epochs": 9}}, "test")
    sets = [
        "training.epochs=3",
        "training.learning_rate=1e-2",
        "model.system=dkt",
        'split.kind="folds"',
        "split.fold=2",
        "evaluation.protocols=['pykt', 'full']",
    ]
    changed = recipe.with_sets(sets)
    assert changed.training == {"epochs": 3, "learning_rate": 1e-2}
    assert changed.model.system == "dkt"
    assert changed.split == ByFolds(fold=2)
    assert changed.evaluation.protocols == ("pykt", "full")
    assert recipe.training == {"epochs": 9}


@pytest.mark.parametrize("text", ["training.epochs", "=3", "training..epochs=3", ""])
def test_a_replacement_of_another_form_is_refused(text):
    with pytest.raises(InputError, match="accepted is A"):
        Recipe.parse({"data": {"source": "x"}}, "test").with_sets([text])


def test_what_is_written_is_read_back_the_same(tmp_path):
    recipe = Recipe.read(shipped("demo")).changed({"seed": 5}, "test")
    path = tmp_path / "demo.toml"
    path.write_text(recipe.to_toml())
    back = Recipe.read(path)
    assert back.to_toml() == recipe.to_toml()
    assert back.seeded_split() == recipe.seeded_split()


def test_the_seed_draws_the_split_unless_the_split_has_its_own():
    plain = {"data": {"source": "x"}, "seed": 7}
    assert Recipe.parse(plain, "test").seeded_split() == ByStudents(seed=7)
    own = plain | {"split": {"kind": "students", "seed": 0}}
    assert Recipe.parse(own, "test").seeded_split() == ByStudents(seed=0)


def test_every_recipe_shows_the_sceptics_baselines():
    recipe = Recipe.parse({"data": {"source": "x"}, "baselines": {"systems": ["bkt"]}}, "test")
    assert recipe.baselines.names() == ("item_mean", "logistic", "bkt")


def test_another_system_leaves_the_first_ones_settings_behind():
    recipe = Recipe.read(shipped("demo"))
    assert recipe.with_system("gpt", trained=True) is recipe
    neural = recipe.with_system("dkt", trained=True)
    assert (neural.model.settings, neural.tracing) == ({}, {})
    assert neural.training == recipe.training
    fitted = recipe.with_system("logistic", trained=False)
    assert plans(fitted)[0].name == "logistic"
    assert fitted.title() == "demo-logistic"
    assert fitted.split == recipe.split


def test_a_control_run_is_called_one():
    recipe = Recipe.read(shipped("demo")).changed({"coin_flip": True}, "test")
    assert recipe.title() == "demo-coin-flip"
