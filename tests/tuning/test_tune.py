"""From a recipe to a winner's recipe, on the command line and in Python."""

import csv
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from kt_forecast import Forecaster, KnowledgeTracer, Search
from kt_forecast.data.interactions import Interactions
from kt_forecast.data.simulate import Simulation, simulate, write
from kt_forecast.data.splits import ByStudents, Role, split
from kt_forecast.errors import InputError
from kt_forecast.experiment import ForecastRecipe, Recipe, run, tables
from kt_forecast.experiment.recipe import DataRecipe
from kt_forecast.experiment.tuning import STUDIES, Tuned, tune
from kt_forecast.experiment.tuning_parts import parts_of, without_test
from kt_forecast.experiment.which import read_recipe
from kt_forecast.report.tuning import TuningRecord
from kt_forecast.schema import RESPONSE, STUDENT
from kt_forecast.tracking import runs as tracked_runs

SMALL = {
    "tracing": {"neighbours": [0, 8], "identity": [0, 8], "scheme": ["shifted", "late"]},
    "settings": {"width": [8, 16], "layers": 1, "heads": 2, "expansion": [1, 2]},
    "training": {"learning_rate": {"low": 1e-3, "high": 3e-2, "log": True}},
}
QUICK = {"trials": 4, "seeds": 2, "finalists": 1}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "answers.csv.gz"
    write(simulate(Simulation(students=40, mean_steps=10, questions=12, concepts=4)), path)
    return path


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("series") / "series.csv"
    hours = pl.datetime_range(
        pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 17), interval="1h", eager=True
    )
    rng = np.random.default_rng(0)
    day = np.sin(np.arange(len(hours)) * 2 * np.pi / 24)
    frames = [
        pl.DataFrame(
            {"unique_id": name, "ds": hours, "y": day * size + rng.normal(size=len(hours))}
        )
        for name, size in (("a", 3.0), ("b", 2.0))
    ]
    pl.concat(frames).write_csv(path)
    return path


def recipe_of(table: Path, **changes: Any) -> Recipe:
    plain = {
        "name": "tiny",
        "data": {"source": str(table)},
        "model": {"system": "gpt", "settings": {"width": 8, "heads": 2}},
        "training": {"epochs": 3, "steps_per_batch": 256},
        "evaluation": {"protocols": ["full"], "bootstraps": 0},
        "tracking": {"enabled": False},
        "search": SMALL,
    }
    return Recipe.parse(plain | changes, "test")


def forecast_of(series: Path, **changes: Any) -> ForecastRecipe:
    plain = {
        "task": "forecasting",
        "name": "tiny",
        "data": {"source": str(series)},
        "model": {"system": "dlinear"},
        "forecasting": {"horizon": 6, "context": 24},
        "training": {"epochs": 3},
        "evaluation": {"bootstraps": 0},
        "tracking": {"enabled": False},
        "search": {"forecasting": {"context": [24, 48], "patch": 16, "linear": 0}},
    }
    return ForecastRecipe.parse(plain | changes, "test")


def tuned(recipe: Any, runs: Path, how: dict[str, Any] | None = None, **options: Any) -> Tuned:
    said: list[str] = []
    options = {"device": "cpu", "say": said.append} | options
    return tune(recipe, Search(**(QUICK | (how or {}))), runs=runs, **options)


@pytest.fixture(scope="module")
def done(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuned, Path]:
    runs = tmp_path_factory.mktemp("mlruns")
    recipe = recipe_of(table, tracking={"experiment": "studies"})
    return tuned(recipe, runs, {"trials": 6}), runs


def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the audit, which says nothing of a score."""
    from kt_forecast.audit import Report

    for module in ("flow", "forecasting"):
        monkeypatch.setattr(
            f"kt_forecast.experiment.{module}.audited",
            lambda *_, **__: Report(verdict="unproven", scope={}),
        )


def values(found: Tuned) -> list[tuple[str, float, dict[str, float]]]:
    study = found.record.study
    return [(one.state, one.value, one.by_seed) for one in study.trials]


def test_the_winners_recipe_reproduces_its_score_to_the_last_bit(
    done: tuple[Tuned, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = done
    light(monkeypatch)
    again = run(read_recipe(found.written).changed({"tracking": {"enabled": False}}, "test"),
                runs=tmp_path, device="cpu", say=str)  # fmt: skip
    best = next(r for r in again.record.curve if r.epoch == again.record.best_epoch)
    winner = found.record.study.best
    assert best.metrics["auc"] == winner.value == found.record.score
    assert winner.by_seed["0"] == winner.value
    assert found.recipe.search == {}


def test_a_winner_of_series_reproduces_its_score_too(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tuned(forecast_of(series), tmp_path)
    light(monkeypatch)
    again = run(read_recipe(found.written), runs=tmp_path, device="cpu", say=str)
    best = next(r for r in again.record.curve if r.epoch == again.record.best_epoch)
    assert best.metrics["mse"] == found.record.study.best.value == found.record.score
    assert found.record.direction == "min"
    assert found.record.study.best.mean <= found.record.default.mean


def test_changing_every_test_answer_changes_no_trial(table: Path, tmp_path: Path) -> None:
    whole = tables.load(DataRecipe(source=str(table)))
    roles = split(whole, ByStudents())
    code = np.unique(whole.frame[STUDENT].to_numpy()[roles.scored(Role.TEST)])
    testing = {whole.students[int(one)] for one in code}
    assert testing
    poisoned = tmp_path / "answers.csv"
    with gzip.open(table, "rt") as read, poisoned.open("w", newline="") as written:
        rows = list(csv.DictReader(read))
        writer = csv.DictWriter(written, rows[0])
        writer.writeheader()
        for row in rows:
            if row["student"] in testing:
                row["response"] = str(1 - int(row["response"]))
        writer.writerows(rows)
    changed = tables.load(DataRecipe(source=str(poisoned)))
    assert (changed.frame[RESPONSE] != whole.frame[RESPONSE]).sum() == roles.scored(Role.TEST).sum()
    honest = tuned(recipe_of(table), tmp_path / "a")
    other = tuned(recipe_of(poisoned), tmp_path / "b")
    assert values(honest) == values(other)
    assert honest.folder.name == other.folder.name


@pytest.mark.parametrize("poison", [1e6, float("nan")])
def test_changing_every_test_value_of_series_changes_no_trial(
    series: Path, tmp_path: Path, poison: float
) -> None:
    frame = pl.read_csv(series)
    late = frame["ds"] >= frame["ds"].unique().sort()[-60]
    poisoned = tmp_path / "series.csv"
    frame.with_columns(y=pl.when(late).then(poison).otherwise("y")).fill_nan(None).write_csv(
        poisoned
    )
    changes = {"split": {"kind": "time", "valid_from": "2024-01-11", "test_from": "2024-01-14"}}
    gaps = {"data": {"source": str(poisoned), "gaps": "mask"}}
    honest = tuned(forecast_of(series, **changes), tmp_path / "a")
    other = tuned(forecast_of(poisoned, **(changes | gaps)), tmp_path / "b")
    assert values(honest) == values(other)


def test_the_table_of_a_study_holds_no_test_row(table: Path) -> None:
    whole = tables.load(DataRecipe(source=str(table)))
    for settings in (ByStudents(), {"kind": "fraction"}, {"kind": "time"}):
        recipe = recipe_of(table).changed({"split": settings}, "test") if isinstance(
            settings, dict
        ) else recipe_of(table)  # fmt: skip
        roles = split(whole, recipe.seeded_split())
        left, kept = without_test(whole, roles)
        assert isinstance(left, Interactions)
        assert len(left) == int((roles.role.to_numpy() <= Role.VALID).sum()) < len(whole)
        assert not kept.scored(Role.TEST).any()
        assert left.source is None


def test_no_part_of_a_study_takes_test_rows(table: Path) -> None:
    import inspect

    from kt_forecast.forecaster import searching as of_series
    from kt_forecast.tracer import searching as of_students

    for call in (tune, of_students.problem, of_students.searched, parts_of, of_series.problem):
        assert not [name for name in inspect.signature(call).parameters if "test" in name]
    assert not [name for name in Search.model_fields if "test" in name]


def test_a_study_leaves_a_report_that_needs_nothing_else(done: tuple[Tuned, Path]) -> None:
    found, runs = done
    assert found.folder.parent == runs / STUDIES
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", page)
    assert "<script" not in page
    for title in ("Trials in their order", "What the pruner saw", "Score against cost"):
        assert title in page
    assert "What was tried" in page
    record = TuningRecord.from_json((found.folder / "record.json").read_text())
    assert record.study.best == found.record.study.best
    assert record.gain == found.record.gain


def test_every_trial_is_a_run_below_the_study_in_mlflow(done: tuple[Tuned, Path]) -> None:
    from kt_forecast.tracking import Store

    found, runs = done
    client = Store(runs).client
    [experiment] = [e for e in client.search_experiments() if e.name == "studies"]
    all_runs = client.search_runs([experiment.experiment_id], max_results=100)
    parents = [r for r in all_runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in all_runs if "mlflow.parentRunId" in r.data.tags]
    [parent] = parents
    assert {r.data.tags["mlflow.parentRunId"] for r in children} == {parent.info.run_id}
    assert {r.info.status for r in all_runs} == {"FINISHED"}
    trials = [r for r in children if r.data.tags["study.phase"] == "search"]
    by_number = {int(r.data.tags["study.trial"]): r for r in trials}
    assert len(trials) == len(by_number) == len(found.record.study.trials)
    for one in found.record.study.trials:
        run_of = by_number[one.number]
        assert run_of.data.tags["study.state"] == one.state
        if one.state == "complete":
            assert run_of.data.metrics["study/auc"] == one.value
            assert run_of.data.metrics["valid_auc"] > 0
            assert "training.learning_rate" in run_of.data.params
    assert parent.data.tags["study.winner"] == str(found.record.study.winner)
    names = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"report", "recipe.toml", "study.toml", "record.json"} <= names
    assert tracked_runs(root=runs).height == len(all_runs)


def test_the_same_call_goes_on_where_the_study_stopped(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tuned(recipe_of(table), tmp_path, {"trials": 3})
    more = tuned(recipe_of(table), tmp_path, {"trials": 5})
    assert more.folder == first.folder
    old, new = first.record.study.trials, more.record.study.trials
    assert len(new) == 5
    assert [t.value for t in new[:3]] == [t.value for t in old]
    other = tuned(recipe_of(table, seed=1), tmp_path, {"trials": 1})
    assert other.folder != first.folder, "another seed divides the rows otherwise"


def test_all_systems_are_searched_with_equal_budgets(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "kt_forecast.experiment.systems.serving", lambda task: ["dkt", "gpt", "logistic"]
    )
    small = {"training": SMALL["training"], "tracing": {"neighbours": 0, "identity": 0}}
    recipe = recipe_of(table, search=small, training={"epochs": 1, "steps_per_batch": 512})
    found = tuned(recipe, tmp_path, {"trials": 2, "seeds": 1}, systems=["all"])
    assert [one.system for one in found.record.studies] == ["gpt", "dkt"]
    assert [len(one.trials) for one in found.record.studies] == [2, 2]
    means = [one.best.mean for one in found.record.studies]
    assert found.record.study.best.mean == max(means)
    assert found.recipe.model.system == found.record.study.system
    assert found.record.default.is_default
    assert len(found.tables()[0][2]) == 2


def test_a_fitted_baseline_is_searched_by_its_own_settings(table: Path, tmp_path: Path) -> None:
    recipe = recipe_of(table, search={})
    found = tuned(recipe, tmp_path, {"seeds": 1, "trials": 3}, systems=["logistic"])
    assert set(found.record.study.fields) == {
        "settings.penalty",
        "settings.slopes",
        "settings.iterations",
    }
    assert read_recipe(found.written).model.system == "logistic"


def test_processes_of_the_command_search_one_study(table: Path, tmp_path: Path) -> None:
    found = tuned(recipe_of(table), tmp_path, workers=2)
    assert len(found.record.study.trials) == QUICK["trials"]
    assert found.record.study.count("failed") == 0
    assert found.record.default.is_default
    logs = sorted(path.name for path in found.folder.glob("worker-*.log"))
    assert logs == ["worker-0.log", "worker-1.log"]


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"search": {"settings": {"widht": [1]}}}, {}, "did you mean 'width'?"),
        ({}, {"systems": ["dlinear"]}, "dlinear is not for students"),
        ({}, {"systems": ["gtp"]}, "did you mean 'gpt'?"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_written(
    table: Path, tmp_path: Path, changes: Any, options: Any, said: str
) -> None:
    with pytest.raises(InputError) as error:
        tuned(recipe_of(table, **changes), tmp_path / "runs", **options)
    assert said in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_several_horizons_are_judged_by_their_mean(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = forecast_of(series, horizons=[6, 12], seeds=[1, 2])
    found = tuned(recipe, tmp_path, {"trials": 2, "seeds": 1})
    assert "mean over 6, 12 steps ahead" in found.record.split
    winner = read_recipe(found.written)
    assert isinstance(winner, ForecastRecipe)
    assert (winner.horizons, winner.seed, winner.seeds) == ((6, 12), 1, ())
    light(monkeypatch)
    best = []
    for one in winner.each("again"):
        record = run(one, runs=tmp_path, device="cpu", say=str).record
        best += [row.metrics["mse"] for row in record.curve if row.epoch == record.best_epoch]
    assert best[0] != best[1]
    assert found.record.score == found.record.study.best.value == sum(best) / 2


def test_a_trial_of_several_horizons_is_pruned_by_the_first_and_stops_in_any(series: Path) -> None:
    recipe = forecast_of(series, horizons=[6, 12])
    _, (part,) = parts_of(recipe, Search(**QUICK), ["dlinear"], "cpu", str)
    heard: list[tuple[int, float]] = []
    part.problem.run(part.problem.sections, 0, lambda e: heard.append((e.number, e.metrics["mse"])))
    assert [number for number, _ in heard] == [1, 2, 3, 3, 3, 3]
    assert len({mse for _, mse in heard[2:]}) == 1

    def late(epoch: Any) -> None:
        heard.append(epoch)
        if len(heard) == 5:
            raise KeyboardInterrupt

    heard.clear()
    with pytest.raises(KeyboardInterrupt):
        part.problem.run(part.problem.sections, 0, late)


def test_members_are_refused(series: Path, tmp_path: Path) -> None:
    members = [{"settings": {"kernel": 5}}]
    with pytest.raises(InputError, match=r"accepted is --set members=\[\]"):
        tuned(forecast_of(series, members=members), tmp_path)


def test_the_command_shows_trials_and_writes_the_winner(table: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe_of(table).to_toml())
    out = tmp_path / "best.toml"
    command = [sys.executable, "-m", "kt_forecast.cli", "tune", str(recipe), "--trials", "2"]
    command += ["--seeds", "1", "--runs", str(tmp_path / "runs"), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "gpt trial 0 complete, validation auc" in done.stdout
    assert "test rows took no part" in done.stdout
    assert re.search(r"kt-forecast train \S*best\.toml", done.stdout)
    assert read_recipe(out).name == "tiny-tuned"


def test_the_command_without_a_budget_says_what_is_accepted() -> None:
    command = [sys.executable, "-m", "kt_forecast.cli", "tune", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "tune: neither trials nor hours is given; accepted is one of them, or both"
    )


def test_a_live_table_shows_the_best_and_how_far_it_is(done: tuple[Tuned, Path]) -> None:
    from rich.console import Console
    from tuning_toy import problem

    from kt_forecast.cli.tune import live_table
    from kt_forecast.tuning import View, ledger

    trials = [
        ledger.Trial(0, "complete", (0.70,), notes={ledger.DEFAULT: True}, seconds=3.0),
        ledger.Trial(1, "complete", (0.75,), {"settings.width": 16}, seconds=4.0),
        ledger.Trial(2, "pruned", params={"settings.width": 8}, reports={1: 0.5}),
        ledger.Trial(3, "running", params={"settings.width": 4}, reports={2: 0.6}),
    ]
    taken = tuple(ledger.Slot((one,)) for one in trials)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(live_table(View("gpt", "search", taken, 10, problem())))
    console.file.close()
    text = console.export_text()
    assert "gpt, trials: 3 of 10 ended" in text
    assert "2 completed, 1 pruned, 1 running" in text
    assert "+0.0500" in text
    assert "the recipe as it stands" in text


def test_a_tracer_searches_before_it_fits(table: Path) -> None:
    settings = {"system": "gpt", "settings": {"width": 8, "heads": 2}, "device": "cpu"}
    training = {"epochs": 2, "steps_per_batch": 256}
    search = {"trials": 3, "seeds": 1, "space": SMALL}
    tracer = KnowledgeTracer(**settings, training=training, search=search).fit(str(table))
    found = tracer.search_
    assert len(found.trials) == 3
    best = tracer.fitted_.epochs[tracer.fitted_.best_epoch - 1].metrics["auc"]
    assert best == found.trial(found.winner).value
    assert best >= found.defaults.value
    plain = KnowledgeTracer(**settings, training=training).fit(str(table))
    assert plain.fitted_.epochs[plain.fitted_.best_epoch - 1].metrics["auc"] == found.defaults.value
    assert not hasattr(plain, "search_")
    with pytest.raises(InputError, match="neither trials nor hours"):
        KnowledgeTracer(search={}).fit("no such table")


def test_a_forecaster_searches_before_it_fits(series: Path) -> None:
    space = {"forecasting": {"context": [24, 48], "linear": 0}}
    forecaster = Forecaster(
        "dlinear",
        6,
        context=24,
        training={"epochs": 2},
        device="cpu",
        search=Search(trials=3, seeds=1, space=space),
    ).fit(str(series), test_size=24)
    found = forecaster.search_
    best = forecaster.fitted_.epochs[forecaster.fitted_.best_epoch - 1].metrics["mse"]
    assert best == found.trial(found.winner).value
    assert json.dumps(forecaster.fitted_.plan.plain())
    assert len(forecaster.predict()) == 12
