import re
import shlex
from pathlib import Path

import pytest
import torch
import typer

from kt_forecast.cli import app
from kt_forecast.data.cards import read_card
from kt_forecast.experiment import ForecastRecipe, Recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
]
TYPED = [words for words in COMMANDS if words and words[0] == "kt-forecast"]
MADE_LATER = ("answers.csv", "sales.csv", "next_weeks.csv", "mlruns/", "predictions.csv")


def test_the_readme_shows_every_command():
    shown = {words[1] for words in TYPED}
    every = {
        "audit",
        "compare",
        "data",
        "evaluate",
        "export",
        "forecast",
        "predict",
        "promote",
        "report",
        "runs",
        "serve",
        "study",
        "train",
        "tune",
        "zoo",
    }
    assert shown == every
    assert {tuple(words) for words in COMMANDS if words[0] == "make"} == {
        ("make", "demo"),
        ("make", "test"),
    }


@pytest.mark.parametrize("words", TYPED, ids=" ".join)
def test_every_command_parses(words):
    command = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        command = command.commands[rest[0]]
        rest = rest[1:]
    command.make_context(command.name, list(rest))


@pytest.mark.parametrize("words", TYPED, ids=" ".join)
def test_every_recipe_it_names_is_there(words):
    for word in words:
        if word.endswith(".toml") and not word.startswith(MADE_LATER):
            assert (ROOT / word).is_file()


def test_the_series_it_imports_are_those_it_trains_on_and_forecasts():
    made = ForecastRecipe.parse({"data": {"source": "sales"}}, "train --data sales").title()
    assert ["kt-forecast", "train", "--data", "sales", "--horizon", "28"] in TYPED
    assert made in {words[2] for words in TYPED if words[1] == "forecast"}


def test_the_run_it_repeats_is_the_one_it_made():
    made = Recipe.parse({"data": {"source": "mine"}}, "train --data mine").title()
    assert ["kt-forecast", "train", "--data", "mine"] in TYPED
    assert ["kt-forecast", "train", f"mlruns/runs/{made}/recipe.toml"] in TYPED


def test_what_it_fetches_can_be_fetched(monkeypatch):
    monkeypatch.setenv("KT_FORECAST_DATASETS", str(ROOT / "datasets"))
    fetched = [words[3] for words in TYPED if words[1:3] == ["data", "fetch"]]
    assert fetched
    assert all(read_card(name).files for name in fetched)


def test_every_path_it_names_is_there():
    for word in re.findall(r"`((?:kt_forecast|pipelines|tests|datasets)/[\w/.]*)`", README):
        assert (ROOT / word).exists(), word


def test_every_make_target_is_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("setup", "demo", "test", "test-all", "lint", "fmt", "bench"):
        assert f"\n{target}:" in makefile
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec make test"


def test_the_python_lines_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KT_FORECAST_DATASETS", str(ROOT / "datasets"))
    tracing, forecasting, auditing = (block for language, block in BLOCKS if language == "python")
    seen = {}
    exec(compile(tracing, "README.md", "exec"), seen)  # noqa: S102
    assert seen["table"]["p_correct"].is_between(0, 1).all()
    assert seen["belief"].height
    assert 0 < seen["chance"] < 1
    assert set(seen["after"]) == set(seen["stream"].concepts)
    exec(compile(forecasting, "README.md", "exec"), seen)  # noqa: S102
    assert set(seen["scores"]) == {"nlinear", "seasonal_naive", "ridge"}
    assert {"unique_id", "ds", "nlinear", "nlinear-lo-90"} <= set(seen["ahead"].columns)
    assert seen["past"]["cutoff"].n_unique() == 2
    seen |= {"model": torch.nn.GRU(4, 4, batch_first=True), "batch": torch.randn(2, 7, 4)}
    exec(compile(auditing, "README.md", "exec"), seen)  # noqa: S102
    assert seen["report"].verdict == "proved"
