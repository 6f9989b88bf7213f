"""A leak that is planted anywhere in a recipe's flow is found; the flow as it is passes."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
import typer.testing

from kt_forecast.audit.report import LEAKS, Report
from kt_forecast.cli import app
from kt_forecast.data.series.simulate import SeriesSimulation
from kt_forecast.data.series.simulate import simulate as simulate_series
from kt_forecast.data.simulate import Simulation, simulate, write
from kt_forecast.data.splits import Role, Split
from kt_forecast.experiment import ForecastRecipe, Recipe, auditing_recipe, run
from kt_forecast.experiment import auditing_series as of_series
from kt_forecast.experiment import auditing_students as of_students
from kt_forecast.experiment.auditing_parts import QUICK
from kt_forecast.experiment.auditing_recipe import audit_run, table_of, together
from kt_forecast.forecaster import fitting
from kt_forecast.tracer import Fitted

STUDENTS = {
    "name": "tiny",
    "model": {"system": "gpt", "settings": {"width": 8, "heads": 1}},
    "training": {"epochs": 1, "steps_per_batch": 256},
    "evaluation": {"protocols": ["full", "cold_start"], "bootstraps": 20},
}
SERIES = {
    "name": "tiny_series",
    "task": "forecasting",
    "split": {"kind": "share"},
    "model": {"system": "nlinear"},
    "forecasting": {"horizon": 6, "context": 24},
    "training": {"epochs": 1},
    "evaluation": {"bootstraps": 20, "levels": [0.8]},
}


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "answers.csv.gz"
    write(simulate(Simulation(students=40, mean_steps=14, questions=15, concepts=4)), path)
    return Recipe.parse({"data": {"source": str(path)}} | STUDENTS, "test")


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "demand.csv"
    simulate_series(SeriesSimulation(series=3, days=20)).write_csv(path)
    data = {"source": str(path)}
    return ForecastRecipe.parse({"data": data} | SERIES, "test")


def audited(recipe, *probes, model=False):
    """Audit a recipe; leave out the model, which other tests audit, unless it is asked for."""
    module = of_students if isinstance(recipe, Recipe) else of_series
    path = module.path_of(recipe, QUICK)
    if not model:
        path = replace(path, model=lambda: Report("proved", scope={}))
    return together(path, replace(QUICK, probes=probes or ("truncate",)))


def outcomes(report):
    return {stage.name: stage.outcome for stage in report.stages}


@pytest.mark.parametrize("kind", ["students", "series"])
def test_the_flow_as_it_is_passes(kind, request):
    report = audited(request.getfixturevalue(kind), *QUICK.probes, model=True)
    assert report.verdict == "conditional", report.text()
    assert {row[0] for row in table_of(report)} == {"data", "split", "scoring", "model"}
    assert "found" not in outcomes(report).values()
    assert "failed" not in outcomes(report).values()
    assert all(outcomes(report)[f"data: {p}"] == "passed" for p in ("mutate", "own", "fit"))
    assert any("changed tables" in condition for condition in report.conditions)
    assert json.loads(report.to_json())["verdict"] == "conditional"
    assert "data: mutate" in report.to_html()


def test_students_split_by_rows_are_found(students, monkeypatch):
    honest = of_students.flow.split

    def by_rows(interactions, settings):
        found = honest(interactions, settings)
        drawn = np.random.default_rng(0).integers(0, 3, len(interactions)).astype(np.uint8)
        return Split(pl.Series("role", drawn), found.settings, found.data_hash)

    monkeypatch.setattr(of_students.flow, "split", by_rows)
    report = audited(students, "split")
    assert report.verdict == LEAKS
    assert outcomes(report)["split: students"] == "found"
    assert outcomes(report)["data: split"] == "found"


def test_names_that_test_rows_taught_are_found(students, monkeypatch):
    honest = of_students.flow.fit_vocabulary

    def of_all(interactions, rows=None, *, extras=()):
        del rows
        return honest(interactions, None, extras=extras)

    monkeypatch.setattr(of_students.flow, "fit_vocabulary", of_all)
    report = audited(students, "fit")
    assert report.verdict == LEAKS
    assert outcomes(report)["data: fit"] == "found"


def test_statistics_of_all_students_are_found(students, monkeypatch):
    honest = of_students.Tracer.fit_statistics
    every = []

    def of_all(self, train):
        every.append(train)
        return honest(self, max(every, key=lambda one: one.n_steps))

    laid = of_students.flow.lay_out

    def with_all(recipe, interactions, roles, *wanted):
        found = laid(recipe, interactions, roles, *wanted)
        every[:] = [of_students.build_role(interactions, found.vocabulary, _all(roles), Role.TRAIN)]
        return found

    monkeypatch.setattr(of_students.flow, "lay_out", with_all)
    monkeypatch.setattr(of_students.Tracer, "fit_statistics", of_all)
    assert outcomes(audited(students, "fit"))["data: fit"] == "found"


def _all(roles):
    return replace(roles, role=pl.Series("role", np.zeros(len(roles.role), dtype=np.uint8)))


def test_a_step_that_knows_the_next_answer_is_found(students, monkeypatch):
    honest = Fitted.predict

    def peeking(self, sequences, **options):
        found = honest(self, sequences, **options)
        following = np.roll(sequences.response.numpy(), -1)
        return np.where(np.isnan(found), found, 0.9 * found + 0.1 * following)

    monkeypatch.setattr(Fitted, "predict", peeking)
    report = audited(students, "mutate")
    assert report.verdict == LEAKS
    assert outcomes(report)["data: mutate"] == "found"


def test_a_score_that_reads_the_answers_is_found_by_coins(students, monkeypatch):
    honest = Fitted.predict

    def knowing(self, sequences, **options):
        found = honest(self, sequences, **options)
        return np.where(np.isnan(found), found, 0.5 * found + 0.5 * sequences.response.numpy())

    monkeypatch.setattr(Fitted, "predict", knowing)
    report = audited(students, "own")
    assert outcomes(report)["scoring: coin flips"] == "found"
    assert outcomes(report)["data: own"] == "found"
    assert any("fair coins" in finding.pattern for finding in report.findings)


def test_rows_that_are_scored_twice_are_found(students, monkeypatch):
    honest = of_students.evaluate

    def twice(*args, **options):
        found = honest(*args, **options)
        return replace(found, predictions=pl.concat([found.predictions] * 2))

    monkeypatch.setattr(of_students, "evaluate", twice)
    assert outcomes(audited(students))["scoring: each once, full"] == "found"


def test_a_scale_of_all_rows_is_found(series, monkeypatch):
    def of_all(table, split):
        return fitting.fit_scale(table, split.test_end)

    monkeypatch.setattr(fitting, "measured", of_all)
    report = audited(series, "fit")
    assert report.verdict == LEAKS
    assert outcomes(report)["data: fit"] == "found"
    assert any("fitted" in finding.output for finding in report.findings)


def test_windows_that_cross_the_border_are_found(series, monkeypatch):
    honest = fitting.train_origins

    def across(chosen, measured, end):
        return honest(chosen, measured, end + 3)

    monkeypatch.setattr(fitting, "train_origins", across)
    report = audited(series)
    assert outcomes(report)["split: borders, train"] == "found"
    assert outcomes(report)["split: borders, test"] == "passed"


def test_windows_that_are_dropped_are_found(series, monkeypatch):
    honest = of_series.every_window

    def dropped(measured, low, high, **options):
        return honest(measured, low, high - 1, **options)

    monkeypatch.setattr(of_series, "every_window", dropped)
    assert outcomes(audited(series))["scoring: each once, ltsf"] == "found"


def test_a_forecast_that_knows_its_values_is_found(series, monkeypatch):
    honest = of_series.Fitted.predict

    def knowing(self, batch):
        found = honest(self, batch)
        return replace(found, point=0.5 * found.point + 0.5 * batch.values[..., batch.n_context :])

    monkeypatch.setattr(of_series.Fitted, "predict", knowing)
    report = audited(series, "own")
    assert outcomes(report)["scoring: noise"] == "found"
    assert outcomes(report)["data: own"] == "found"


def test_a_data_path_that_cannot_be_run_proves_nothing(students, monkeypatch):
    def broken(*_):
        raise ValueError("no disk")

    path = of_students.path_of(students, QUICK)
    calls = []

    def once(train, rest):
        calls.append(1)
        return path.function(train, rest) if len(calls) <= 3 else broken()

    report = together(replace(path, function=once))
    assert report.verdict == "unproven"
    assert any("no disk" in reason for reason in report.reasons)


@pytest.fixture(scope="module")
def trained(students, series, tmp_path_factory):
    runs = tmp_path_factory.mktemp("mlruns")
    for recipe in (students, series):
        quiet = recipe.changed({"tracking": {"enabled": False}}, "test")
        run(quiet, runs=runs, device="cpu", say=lambda _: None)
    return runs


@pytest.mark.parametrize("name", ["tiny", "tiny_series"])
def test_a_stored_run_is_audited_with_its_own_weights(name, trained, monkeypatch):
    seen = []

    def looked(path, sizes):
        seen.append(path.function.__self__.fitted)
        return together(path, sizes)

    monkeypatch.setattr(auditing_recipe, "THOROUGH", QUICK)
    monkeypatch.setattr(auditing_recipe, "together", looked)
    report = audit_run(name, trained, device="cpu")
    assert report.verdict == "conditional", report.text()
    from kt_forecast import load

    own = load(trained / "runs" / name / "model", device="cpu")
    first, second = (next(one.model.parameters()).detach() for one in (seen[0], own.fitted_))
    assert torch.equal(first, second)


PIPELINE = """
import polars as pl
from kt_forecast.audit.pipeline import rows

TABLE = pl.DataFrame({"id": ["a"] * 30 + ["b"] * 30, "t": [*range(30)] * 2,
                      "x": [float(i * i % 17) for i in range(60)]})

def centred(table):
    return table.with_columns(m=pl.col("x").rolling_mean(3, center=True).over("id"))

def trailing(table):
    return table.with_columns(m=pl.col("x").rolling_mean(3).over("id"))

def leaking():
    return centred, TABLE, rows(time="t", entity="id")

def honest():
    return trailing, TABLE.rename({"t": "time"})

def clockless():
    return trailing, TABLE
"""


def test_a_pipeline_in_a_file_is_audited(tmp_path):
    path = tmp_path / "features.py"
    path.write_text(PIPELINE)
    cli = typer.testing.CliRunner()
    told = cli.invoke(app, ["audit", f"{path}:leaking", "--json", str(tmp_path / "a.json")])
    assert told.exit_code == 1, told.output
    assert json.loads((tmp_path / "a.json").read_text())["findings"][0]["output"] == "m"
    assert cli.invoke(app, ["audit", f"{path}:honest"]).exit_code == 3
    refused = cli.invoke(app, ["audit", f"{path}:clockless"])
    assert "no column says when a row is known" in str(refused.exception)


def test_a_recipe_is_audited_from_the_command_line(students, tmp_path, monkeypatch):
    monkeypatch.setattr(auditing_recipe, "THOROUGH", QUICK)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(students.to_toml())
    cli = typer.testing.CliRunner()
    told = cli.invoke(
        app, ["audit", str(recipe), "--html", str(tmp_path / "a.html"), "--device", "cpu"]
    )
    assert told.exit_code == 0, told.output
    for word in ("data", "split", "scoring", "model", "verdict: conditional"):
        assert word in told.output
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    unknown = cli.invoke(app, ["audit", "no_such", "--runs", str(tmp_path)])
    assert "no run is called" in str(unknown.exception)
