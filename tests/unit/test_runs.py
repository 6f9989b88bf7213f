"""Recorded runs: filtered by typed conditions, held beside each other, promoted by their audit."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from kt_forecast.errors import InputError
from kt_forecast.experiment import runs as recorded
from kt_forecast.experiment.board import Board
from kt_forecast.experiment.board_rows import Difference, Group, Interval, Row
from kt_forecast.experiment.promote import promote
from kt_forecast.experiment.stored import RECORD, RUNS, TRACKED, find
from kt_forecast.report import Verdict
from kt_forecast.tracking import Store, Tracker
from kt_forecast.tracking.registry import fetched, is_registered, registered
from kt_forecast.training import Epoch
from tests.sample_record import a_record

TABLE = pl.DataFrame(
    {
        "run": ["a1", "b2", "c3"],
        "name": ["one", "two", "three"],
        "verdict": ["proved", "leak", None],
        "metric.full/auc": [0.7, 0.8, None],
        "metric.seconds": [1.0, 2.0, 3.0],
        "setting.training.epochs": ["9", "10", None],
        "setting.seed": ["0", "1", "2"],
        "tag.seed": ["x", "y", "z"],
        "tag.system": ["gpt", "dkt", "gpt"],
    }
)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("full/auc > 0.75", ["two"]),
        ("metrics.full/auc <= 0.7", ["one"]),
        ("system = gpt", ["one", "three"]),
        ("system != gpt", ["two"]),
        ("tags.system = 'gpt' and full/auc > 0", ["one"]),
        ("training.epochs >= 10", ["two"]),
        ("params.training.epochs = 9", ["one"]),
        ("verdict != leak", ["one", "three"]),
        ("name ~ t", ["two", "three"]),
        ("tag.seed = z", ["three"]),
    ],
)
def test_runs_are_filtered_by_what_a_name_means(where, kept, monkeypatch):
    monkeypatch.setattr(recorded, "runs", lambda *_: TABLE)
    assert recorded.chosen(Path(), where=[where])["name"].to_list() == kept


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("full/auc ? 1", "NAME OP VALUE"),
        ("full/acu > 1", "did you mean 'full/auc'"),
        ("seed = 1", "setting.seed"),
        ("full/auc > much", "accepted is a number"),
        ("system > gpt", "is text"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(where, said, monkeypatch):
    monkeypatch.setattr(recorded, "runs", lambda *_: TABLE)
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        recorded.chosen(Path(), where=[where])


def test_the_best_come_first_and_what_lacks_the_metric_last(monkeypatch):
    monkeypatch.setattr(recorded, "runs", lambda *_: TABLE)
    found = recorded.chosen(Path(), sort="-full/auc")
    assert found["name"].to_list() == ["two", "one", "three"]


@pytest.fixture(scope="session")
def empty(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = tmp_path_factory.mktemp("store") / "mlruns"
        Store(root)
    return root


@pytest.fixture
def root(tmp_path, empty, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Path(shutil.copytree(empty, tmp_path / "mlruns"))


def stored(root, name, verdict, *, tracked=True, width=8):
    """Record a run and write the part of its folder that promotion reads."""
    folder = root / RUNS / name
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights.txt").write_text(name)
    record = a_record(title=name, verdict=Verdict(verdict=verdict))
    (folder / RECORD).write_text(record.to_json())
    with Tracker("study", name, root=root) as run:
        run.settings({"model": {"width": width}, "seed": 0})
        run.data(
            data_hash="d" * 64,
            split_hash="s" * 64,
            name="toy",
            source="toy.csv",
            split="students",
            card={"licence": "CC0", "citation": "Me (2020)"},
        )
        run.cite({"system": "A paper, 2020"})
        run.epoch(Epoch(1, 1.0, {"auc": 0.6}, 2.0, 100.0, 1e-3))
        run.scores({"full/auc": 0.7})
        run.verdict(verdict)
        run.model(folder / "model")
    if tracked:
        (folder / TRACKED).write_text(json.dumps({"run": run.id}))
    return run.id


def test_a_run_tells_where_it_comes_from_and_whom_to_cite(root):
    run = stored(root, "one", "proved")
    found = Store(root).client.get_run(run)
    tags, metrics = found.data.tags, found.data.metrics
    assert (tags["data.hash"], tags["data.split"], tags["data.split_kind"]) == (
        "d" * 64,
        "s" * 64,
        "students",
    )
    assert (tags["data.card.licence"], tags["cite.system"]) == ("CC0", "A paper, 2020")
    assert tags["machine.python"].startswith("3.")
    assert metrics["system/peak_memory_mib"] >= metrics["system/memory_mib"] > 0
    model = Store(root).client.get_logged_model(found.outputs.model_outputs[0].model_id)
    assert model.tags["verdict"] == "proved", "a model carries its verdict, registered or not"
    data = found.inputs.dataset_inputs[0].dataset
    assert (data.name, data.digest) == ("toy", "d" * 36)


def test_curves_that_a_killed_process_left_out_are_added_once(root):
    epochs = [Epoch(i, 1.0 / i, {"auc": 0.5}, 2.0, 100.0, 1e-3) for i in range(1, 5)]
    with Tracker("study", "again", root=root) as run:
        run.epoch(epochs[3])
        run.curves(epochs)
        run.curves(epochs)
    points = Store(root).client.get_metric_history(run.id, "train_loss")
    assert sorted((m.step, m.value) for m in points) == [(e.number, e.loss) for e in epochs]


def test_epochs_that_are_quicker_than_a_write_wait_for_each_other(root, monkeypatch):
    with Tracker("study", "quick", root=root) as run:
        writes = []
        real = run._client.log_batch
        monkeypatch.setattr(
            run._client, "log_batch", lambda *a, **k: (writes.append(1), real(*a, **k))
        )
        for number in range(1, 31):
            run.epoch(Epoch(number, 1.0, {"auc": 0.5}, 0.0, 1.0, 1e-3))
        assert len(writes) <= 3
    points = Store(root).client.get_metric_history(run.id, "train_loss")
    assert sorted(m.step for m in points) == list(range(1, 31))


def test_runs_beside_each_other_show_what_differs(root):
    stored(root, "one", "proved")
    stored(root, "two", "proved", width=16)
    (_, (header, facts)), (_, (_, metrics)) = recorded.beside(["one", "two"], root)
    assert len(header) == 3
    assert ("model.width", "8", "16") in facts
    assert not [row for row in facts if row[0] in {"seed", "data.hash"}]
    assert ("full/auc", "0.7", "0.7") in metrics
    table = recorded.chosen(root, where=["model.width > 8"])
    assert [row[1] for row in recorded.listed(table)[1]] == ["two"]


@pytest.mark.parametrize("verdict", ["leak", "unproven"])
def test_what_is_not_proved_is_promoted_for_a_recorded_reason_only(verdict, root):
    run = stored(root, "doubtful", verdict)
    with pytest.raises(InputError, match="--override"):
        promote("doubtful", "champion", runs=root)
    with pytest.raises(InputError, match="nothing is registered"):
        registered("doubtful@champion", root)
    found = promote("doubtful", "champion", override="for a talk", runs=root)
    assert (found.verdict, found.override) == (verdict, "for a talk")
    assert Store(root).client.get_run(run).data.tags["verdict.override"] == "for a talk"


def test_a_verdict_that_was_edited_in_mlflow_does_not_help(root):
    run = stored(root, "leaking", "leak")
    Tracker.of(run, root).verdict("proved")
    with pytest.raises(InputError, match="'leak'"):
        promote("leaking", "champion", runs=root)


def test_an_alias_moves_and_a_run_is_registered_once(root):
    one = stored(root, "one", "proved")
    two = stored(root, "two", "conditional")
    assert promote("one", "champion", model="tracer", runs=root).version == "1"
    assert promote("one", "champion", model="tracer", runs=root).version == "1"
    assert promote("two", "champion", model="tracer", runs=root).version == "2"
    assert promote("one", "old", model="tracer", runs=root).version == "1"
    assert registered("tracer@champion", root).run == two
    assert registered("models:/tracer@old", root).run == one
    assert registered("models:/tracer/1", root).run == one
    assert (fetched("tracer@champion", root) / "weights.txt").read_text() == "two"
    assert find("tracer@old", root).name == "one"
    with pytest.raises(InputError, match="tracer@champion"):
        registered("tracer@best", root)


def test_what_cannot_be_promoted_is_refused(root):
    stored(root, "untracked", "proved", tracked=False)
    with pytest.raises(InputError, match="MLflow did not record"):
        promote("untracked", "champion", runs=root)
    stored(root, "one", "proved")
    with pytest.raises(InputError, match="alias"):
        promote("one", "not an alias", runs=root)


def test_looking_where_nothing_was_recorded_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "mlruns"
    assert recorded.chosen(root).is_empty()
    assert recorded.chosen(root, where=["name = demo"], sort="-started").is_empty()
    with pytest.raises(InputError, match="no run is called 'demo'; the newest are: none yet"):
        recorded.beside(["demo"], root)
    for look in (registered, fetched, find):
        with pytest.raises(InputError, match="kt-forecast promote has given, none yet"):
            look("demo@champion", root)
    assert not list(tmp_path.iterdir())


def test_what_is_there_as_a_path_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_registered("tracer@champion")
    assert is_registered("models:/tracer@champion")
    assert not is_registered("tracer")
    assert not is_registered("some/tracer@champion")
    (tmp_path / "tracer@champion").mkdir()
    assert not is_registered("tracer@champion")


def row(system, value, *, marks=(), gap=None, verdict="proved"):
    score = Interval(value, value - 0.01, value + 0.01)
    return Row(system, "gpt", score, 10, 1.0, 0.5, "9 MiB", "step", verdict, marks, gap)


def test_a_page_marks_what_leaks_and_needs_nothing_else():
    rows = (
        row(
            "cheat<b>", 0.9, marks=("LEAKS",), gap=Difference(0.1, 0.09, 0.11, 0.0), verdict="leak"
        ),
        row("best", 0.8),
        row("level", 0.79, gap=Difference(-0.01, -0.03, 0.01, 0.4)),
    )
    board = Board((Group("toy, full", "auc", False, "best", rows),))
    page = board.to_html()
    assert "<b>" not in page
    assert "cheat&lt;b&gt;" in page
    assert "<span class='mark'>LEAKS</span>" in page
    for outside in ("http://", "https://", "<script", "<link"):
        assert outside not in page
    told = " ".join(board.notes())
    assert "cheat<b> is LEAKS" in told
    assert "not told from best: level" in told
    assert json.loads(board.to_json())["groups"][0]["best"] == "best"
    assert board.tables()[0][2][1][2] == "best"
