import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from kt_forecast.audit import Report
from kt_forecast.data.simulate import Simulation, simulate, write
from kt_forecast.errors import InputError
from kt_forecast.experiment import Recipe, evaluate, find, predict, report, run, tables
from kt_forecast.experiment.recipe import DataRecipe
from kt_forecast.experiment.running import CHECKPOINTS
from kt_forecast.experiment.stored import (
    AUDIT,
    AUDIT_PAGE,
    MODEL,
    RECIPE,
    RECORD,
    REPORT,
    SPLIT,
    TEST_READS,
    TRACKED,
)
from kt_forecast.tracer import load
from kt_forecast.tracking import runs as tracked_runs

TINY = {
    "name": "tiny",
    "model": {"system": "gpt", "settings": {"width": 16, "heads": 2}},
    "training": {"epochs": 2, "steps_per_batch": 256},
    "evaluation": {"protocols": ["full"], "bootstraps": 20},
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "answers.csv.gz"
    write(simulate(Simulation(students=30, mean_steps=12, questions=20, concepts=5)), path)
    return path


@pytest.fixture(scope="module")
def recipe(table):
    return Recipe.parse({"data": {"source": str(table)}} | TINY, "test")


@pytest.fixture(scope="module")
def done(recipe, tmp_path_factory):
    runs = tmp_path_factory.mktemp("mlruns")
    said: list[str] = []
    made = run(recipe, runs=runs, device="cpu", say=said.append)
    return made, runs, said


@pytest.fixture
def light(monkeypatch):
    """Leave out audit and figures, which one test looks at, where a test needs another run."""
    stored = Report(verdict="unproven", scope={})
    monkeypatch.setattr("kt_forecast.experiment.flow.audited", lambda *_: stored)
    monkeypatch.setattr("kt_forecast.experiment.running.render", lambda record: record.title)


def scores(made):
    return made.record.protocols[0].model


def changed(recipe, **changes):
    return recipe.changed(changes, "test")


def test_a_run_leaves_everything_behind(done, recipe, table):
    made, runs, said = done
    assert made.name == "tiny"
    parts = {RECIPE, SPLIT, MODEL, RECORD, REPORT, TEST_READS, AUDIT, AUDIT_PAGE}
    assert {path.name for path in made.folder.iterdir()} == parts
    record = made.record
    protocol = record.protocols[0]
    assert {"item_mean", "logistic"} <= set(protocol.baselines)
    assert set(protocol.differences) == set(protocol.baselines)
    assert protocol.model["auc"].low < protocol.model["auc"].value < protocol.model["auc"].high
    assert record.data.data_hash == tables.load(DataRecipe(source=str(table))).data_hash
    assert record.split.split_hash == json.loads((made.folder / SPLIT).read_text())["role_hash"]
    assert [part.name for part in record.split.parts] == ["train", "valid", "test"]
    assert protocol.n_interactions == record.split.parts[2].n_interactions
    assert record.verdict is not None
    assert not record.verdict.leaks
    assert len(record.curve) == 2
    assert record.mastery is not None
    assert record.settings["training"]["epochs"] == 2
    assert record.settings["model"]["settings"]["layers"] == 1, "defaults are resolved"
    assert len(json.loads((made.folder / TEST_READS).read_text())) == 1
    assert not list((runs / CHECKPOINTS).iterdir()), "a finished run needs no checkpoint"
    assert any(sentence.startswith("epoch 1: objective") for sentence in said)
    assert "which question comes next" in record.objective
    assert find("tiny", runs).record == record
    page = (made.folder / REPORT).read_text()
    assert "tiny" in page
    assert "logistic" in page


@pytest.mark.usefixtures("light")
def test_the_same_recipe_gives_the_same_numbers_and_another_name(done, recipe):
    made, runs, _ = done
    said: list[str] = []
    again = run(recipe, runs=runs, device="cpu", say=said.append)
    assert again.name == "tiny-2"
    assert scores(again) == scores(made)
    assert sum("from the cache" in sentence for sentence in said) == 2
    assert again.record.protocols[0].baselines == made.record.protocols[0].baselines


@pytest.mark.usefixtures("light")
def test_the_stored_recipe_makes_the_run_again(done, tmp_path):
    made, _, _ = done
    stored = Recipe.read(made.folder / RECIPE)
    again = run(stored, runs=tmp_path, device="cpu", say=len)
    assert scores(again) == scores(made)
    assert again.record.split.split_hash == made.record.split.split_hash


@pytest.mark.usefixtures("light")
def test_a_cache_that_cannot_be_read_is_fitted_anew(recipe, tmp_path):
    quick = Recipe.parse(
        recipe.plain() | {"training": {}, "model": {"system": "concept_mean"}}, "test"
    )
    run(quick, runs=tmp_path, say=len)
    for path in (tmp_path / "cache").glob("*/*"):
        path.write_bytes(b"broken")
    said: list[str] = []
    run(quick, runs=tmp_path, say=said.append)
    assert any("fitting anew" in sentence for sentence in said)


@pytest.mark.usefixtures("light")
def test_another_protocol_on_the_stored_rows_is_noted(recipe, tmp_path):
    run(recipe, runs=tmp_path, device="cpu", say=len)
    said: list[str] = []
    found = evaluate("tiny", protocols=("cold_start",), runs=tmp_path, say=said.append)
    assert [one.name for one in found.record.protocols] == ["cold_start"]
    stored = find("tiny", tmp_path).record
    assert [one.name for one in stored.protocols] == ["full", "cold_start"]
    reads = json.loads((found.folder / TEST_READS).read_text())
    assert [one["why"] for one in reads] == ["train", "evaluate"]
    assert any("2 times" in sentence for sentence in said)
    assert "cold_start" in (found.folder / REPORT).read_text()
    again = evaluate("tiny", protocols=("full",), runs=tmp_path, say=len)
    assert again.record.protocols[0] == stored.protocols[0]


@pytest.mark.usefixtures("light")
def test_a_changed_table_is_not_the_one_of_the_split(recipe, table, tmp_path):
    mine = tmp_path / "answers.csv"
    frame = pl.read_csv(table)
    frame.write_csv(mine)
    run(changed(recipe, data={"source": str(mine)}), runs=tmp_path, device="cpu", say=len)
    frame.with_columns(response=1 - pl.col("response")).write_csv(mine)
    with pytest.raises(InputError, match="other data"):
        evaluate("tiny", runs=tmp_path, say=len)


def test_predictions_are_those_of_the_stored_model(done, table, tmp_path):
    made, runs, _ = done
    expected = load(made.folder / MODEL).predict_proba(table)["p_correct"].to_numpy()
    for name in ("out.csv", "out.parquet"):
        path = predict("tiny", {"source": str(table)}, out=tmp_path / name, runs=runs)
        read = pl.read_csv if name.endswith("csv") else pl.read_parquet
        found = read(path)
        assert np.allclose(found["p_correct"], expected, rtol=0, atol=1e-12)
        assert found.height == pl.read_csv(table).height
    with pytest.raises(InputError, match="accepted endings"):
        predict("tiny", {"source": str(table)}, out=tmp_path / "out.xls", runs=runs)
    assert {path.name for path in tmp_path.iterdir()} == {"out.csv", "out.parquet"}


def test_the_report_is_written_again(done, tmp_path):
    made, runs, _ = done
    assert report("tiny", out=tmp_path / "page.html", runs=runs).is_file()
    assert report("tiny", runs=runs) == made.folder / REPORT


def test_a_run_that_is_not_there_is_named_with_the_nearest(done):
    _, runs, _ = done
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        report("tinny", runs=runs)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"source": "no such table.csv"}},
        {"model": {"system": "gtp"}},
        {"split": {"kind": "folds", "fold": 9}},
        {"folds": "all"},
        {"data": {"extras": ["hints"]}},
    ],
)
def test_refused_input_writes_nothing(recipe, changes, tmp_path):
    with pytest.raises(InputError):
        run(changed(recipe, **changes), runs=tmp_path / "mlruns", say=len)
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.usefixtures("light")
def test_every_fold_and_their_mean(recipe, tmp_path):
    split = {"kind": "folds", "n_folds": 3, "test": 0.2}
    every = changed(recipe, folds="all", split=split, training={"epochs": 1})
    made = run(every, runs=tmp_path, device="cpu", say=len)
    folds = [find(f"tiny-fold{number}", tmp_path) for number in range(3)]
    values = np.array([scores(one)["auc"].value for one in folds])
    assert len(set(values)) > 1
    assert np.isclose(scores(made)["auc"].value, values.mean())
    sd = values.std(ddof=1)
    assert np.isclose(scores(made)["auc"].high - scores(made)["auc"].value, sd)
    assert "3 folds" in made.record.protocols[0].interval
    assert (made.folder / REPORT).is_file()
    with pytest.raises(InputError, match="tiny-fold0"):
        evaluate("tiny", runs=tmp_path, say=len)
    # An interrupted call left some folds and no summary; the same call goes on from them.
    shutil.rmtree(made.folder)
    shutil.rmtree(folds[2].folder)
    said = []
    again = run(every, runs=tmp_path, device="cpu", say=said.append)
    assert sum("finished before" in line for line in said) == 2
    assert scores(again)["auc"].value == scores(made)["auc"].value
    assert {path.name for path in made.folder.parent.iterdir()} == {
        "tiny",
        *(f"tiny-fold{number}" for number in range(3)),
    }


@pytest.mark.parametrize(
    "split",
    [{"kind": "time", "test": 0.3, "valid": 0.2}, {"kind": "fraction", "train": 0.6, "valid": 0.2}],
)
@pytest.mark.usefixtures("light")
def test_later_rows_are_tested_with_the_earlier_ones_as_history(recipe, split, tmp_path):
    made = run(
        changed(recipe, split=split, training={"epochs": 1}), runs=tmp_path, device="cpu", say=len
    )
    protocol = made.record.protocols[0]
    assert protocol.n_interactions == made.record.split.parts[2].n_interactions


@pytest.mark.usefixtures("light")
def test_fair_coins_replace_every_response(done, recipe):
    _, runs, _ = done
    coin = changed(recipe, coin_flip=True, evaluation={"bootstraps": 200})
    said: list[str] = []
    made = run(coin, runs=runs, device="cpu", say=said.append)
    assert not any("from the cache" in sentence for sentence in said), "other labels, other fits"
    assert made.record.coin_flip
    assert made.name == "tiny-coin-flip"
    auc = scores(made)["auc"]
    assert auc.low <= 0.5 <= auc.high
    assert "fair coins" in made.tables()[0][0]


@pytest.mark.usefixtures("light")
def test_an_interrupted_run_goes_on_when_the_same_recipe_is_run_again(done, recipe, tmp_path):
    made, _, _ = done

    def interrupt(sentence: str) -> None:
        if sentence.startswith("epoch 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, runs=tmp_path, device="cpu", say=interrupt)
    assert not (tmp_path / "runs").exists()
    said: list[str] = []
    resumed = run(recipe, runs=tmp_path, device="cpu", say=said.append)
    assert any("going on" in sentence for sentence in said)
    assert scores(resumed) == scores(made)


@pytest.mark.usefixtures("light")
def test_two_processes_do_not_train_the_same_recipe_at_once(recipe, tmp_path):
    quick = changed(recipe, training={"epochs": 1})
    refused: list[str] = []

    def again(sentence):
        if sentence.startswith("epoch 1"):
            with pytest.raises(InputError, match="another process") as error:
                run(quick, runs=tmp_path, device="cpu", say=len)
            refused.append(str(error.value))

    made = run(quick, runs=tmp_path, device="cpu", say=again)
    assert len(refused) == 1
    assert [path.name for path in made.folder.parent.iterdir()] == [made.name]
    assert not list((tmp_path / CHECKPOINTS).iterdir())


@pytest.mark.usefixtures("light")
def test_a_name_that_is_taken_meanwhile_is_left_alone(recipe, tmp_path, monkeypatch):
    quick = changed(recipe, training={"epochs": 1})
    taken = tmp_path / "runs" / "tiny"
    names = iter([taken, taken, taken.with_name("tiny-2")])
    monkeypatch.setattr("kt_forecast.experiment.running.home", lambda *_: next(names))
    (taken / "of another").mkdir(parents=True)
    made = run(quick, runs=tmp_path, device="cpu", say=len)
    assert made.record.title == made.name == "tiny-2"
    assert "tiny-2" in made.record.command
    assert [path.name for path in taken.iterdir()] == ["of another"]


@pytest.mark.usefixtures("light")
def test_a_device_that_is_not_here_is_refused_before_anything_is_written(recipe, done, tmp_path):
    for device in ("gpu", "meta", "cuda:99"):
        with pytest.raises(InputError, match="accepted are auto, cpu"):
            run(recipe, runs=tmp_path / "runs", device=device, say=len)
    with pytest.raises(InputError, match="accepted are auto, cpu"):
        load(done[0].folder / MODEL, device="gpu")
    assert not list(tmp_path.iterdir())


def test_a_model_that_fails_the_audit_is_named_so_everywhere(done):
    made, _, _ = done
    guilty = replace(made.record.verdict, verdict="leak", findings=("reads the answer",))
    shown = replace(made, record=replace(made.record, verdict=guilty))
    assert "LEAKS" in shown.tables()[0][2][0][0]
    assert any("LEAKS" in line for line in shown.closing())
    assert "LEAKS" not in made.tables()[0][2][0][0]


def test_a_kept_table_is_the_same_data_set(table, tmp_path, monkeypatch):
    monkeypatch.setenv("KT_FORECAST_DATASETS", str(tmp_path / "sets"))
    frame = pl.read_csv(table).rename({"student": "who", "concepts": "skills"})
    source = tmp_path / "own.csv"
    frame.write_csv(source)
    columns = {"student": "who", "concepts": "skills"}
    data = DataRecipe(source=str(source), columns=columns, separator="_")
    card = tables.keep(data, "mine")
    assert card.is_file()
    kept, own = tables.load(DataRecipe(source="mine")), tables.load(data)
    assert kept.data_hash == own.data_hash
    assert ("mine", "mine", "knowledge tracing", "yes", "not stated") in tables.data_sets()
    with pytest.raises(InputError, match="there already"):
        tables.keep(data, "mine")
    with pytest.raises(InputError, match="accepted are letters"):
        tables.keep(data, "../mine")
    source.write_text("who,response\n1,7\n")
    with pytest.raises(InputError):
        tables.keep(data, "other")
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == ["mine"]


def test_mlflow_has_the_run_and_serves_its_model_in_a_fresh_process(recipe, table, tmp_path):
    tracked = changed(recipe, tracking={"enabled": True}, training={"epochs": 1})
    made = run(tracked, runs=tmp_path, device="cpu", say=len)
    script = f"""
import json, logging, mlflow, pandas
from pathlib import Path
from kt_forecast.tracking import runs
logging.getLogger("mlflow").setLevel(logging.ERROR)
found = runs(Path({str(tmp_path)!r})).row(0, named=True)
held = [one.path for one in mlflow.MlflowClient().list_artifacts(found["run"])]
model = mlflow.pyfunc.load_model(f"runs:/{{found['run']}}/model")
p_correct = model.predict(pandas.read_csv({str(table)!r}))["p_correct"].tolist()
facts = {{key: str(value) for key, value in found.items()}}
print(json.dumps([facts, held, p_correct]))
"""
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert told.returncode == 0, told.stderr
    facts, held, p_correct = json.loads(told.stdout.splitlines()[-1])
    record = made.record
    assert facts["name"] == "tiny"
    assert facts["verdict"] == record.verdict.verdict
    assert facts["tag.data.hash"] == record.data.data_hash
    assert facts["tag.data.split"] == record.split.split_hash
    assert "tag.code.version" in facts
    assert float(facts["metric.full/auc"]) == pytest.approx(scores(made)["auc"].value)
    assert "metric.full/logistic/auc_low" in facts
    assert "metric.train_loss" in facts
    assert facts["tag.train_loss"] == record.objective
    assert facts["setting.training.epochs"] == "1"
    assert {"figures", "recipe.toml", "report", "settings.json", "split.json"} <= set(held)
    expected = load(made.folder / MODEL).predict_proba(table)["p_correct"].to_numpy()
    assert np.allclose(p_correct, expected, rtol=0, atol=1e-6)
    scored = evaluate(made.name, protocols=("cold_start",), runs=tmp_path, device="cpu", say=len)
    later = tracked_runs(tmp_path).row(0, named=True)
    assert later["metric.cold_start/auc"] == pytest.approx(scores(scored)["auc"].value)
    assert later["metric.cold_start/logistic/auc"] > 0
    assert later["metric.full/auc"] == float(facts["metric.full/auc"])
    assert later["status"] == "FINISHED"
    (made.folder / TRACKED).write_text(json.dumps({"run": "0" * 32}))
    said: list[str] = []
    evaluate(made.name, runs=tmp_path, device="cpu", say=said.append)
    assert any("not added to MLflow" in sentence for sentence in said)
