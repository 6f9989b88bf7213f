"""Runs in a real SQLite store: what is kept, what a killed run leaves, several writers at once."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kt_forecast.errors import InputError
from kt_forecast.tracking import Store, Tracker, code_version, download, find, runs, versions
from kt_forecast.tracking.tracker import flattened
from kt_forecast.tracking.versions import requirements
from kt_forecast.training import Epoch, TrainingConfig, fit, write_tensors
from tests.e2e.tiny_training import SETTINGS, TinyBatches, TinyModel, validation


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = tmp_path_factory.mktemp("store") / "mlruns"
        Store(root)
    return root


@pytest.fixture
def root(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Path(shutil.copytree(empty_store, tmp_path / "mlruns"))


def epoch(number, auc=0.5):
    return Epoch(number, 1.0 / number, {"auc": auc}, 2.0, 100.0, 1e-3)


def test_a_run_keeps_settings_hashes_versions_scores_and_intervals(root):
    with Tracker("study", "first", root=root) as run:
        run.settings({"model": {"width": 8, "kinds": ["a", "b"]}, "system": "sakt"})
        run.data(data_hash="d1", split_hash="s1", name="toy")
        run.scores({"auc": (0.7, 0.6, 0.8), "nll": 0.5, "auc@5 answers": 0.55})
        run.verdict("CLEAN")
    row = find("first", root)
    assert (row["run"], row["status"], row["experiment"]) == (run.id, "FINISHED", "study")
    assert (row["setting.model.width"], row["setting.model.kinds"]) == ("8", '["a", "b"]')
    assert [row[f"metric.{k}"] for k in ("auc", "auc_low", "auc_high")] == [0.7, 0.6, 0.8]
    assert row["metric.auc_5 answers"] == 0.55
    assert (row["tag.data.hash"], row["tag.data.split"], row["verdict"]) == ("d1", "s1", "CLEAN")
    assert row["tag.library.torch"] == torch.__version__
    assert row["tag.code.version"] == code_version()["version"]
    assert row["seconds"] >= 0


def test_training_reports_its_curves_once_and_a_resumed_run_goes_on(root):
    model = TinyModel()
    config = TrainingConfig(**SETTINGS)
    run = Tracker("study", "curve", root=root)
    done = fit(model, TinyBatches(), validation(model), config, callbacks=[run.epoch], device="cpu")
    with pytest.raises(KeyboardInterrupt), run:
        raise KeyboardInterrupt
    assert find("curve", root)["status"] == "FAILED"
    with Tracker("study", root=root, resume=run.id) as again:
        for record in done.history:
            again.epoch(record)
        again.epoch(epoch(4))
    assert again.id == run.id
    assert find("curve", root)["status"] == "FINISHED"
    curve = Store(root).client.get_metric_history(run.id, "train_loss")
    assert [(m.step, m.value) for m in curve] == [
        *((e.number, e.loss) for e in done.history),
        (4, 0.25),
    ]
    valid = Store(root).client.get_metric_history(run.id, "valid_nll")
    assert [m.value for m in valid] == [e.metrics["nll"] for e in done.history]


def test_an_epoch_is_one_write(root, monkeypatch):
    with Tracker("study", root=root) as run:
        writes = []
        real = run._client.log_batch
        monkeypatch.setattr(
            run._client, "log_batch", lambda *a, **k: (writes.append(1), real(*a, **k))
        )
        run.epoch(epoch(1))
        run.epoch(epoch(1))
        assert writes == [1]


def test_a_run_that_has_ended_is_added_to_and_stays_as_it_was(root):
    with Tracker("study", "done", root=root) as run:
        run.scores({"full/auc": 0.6})
    before = find("done", root)
    again = Tracker.of(run.id, root)
    again.scores({"stream/auc": 0.7})
    after = find("done", root)
    assert after["metric.stream/auc"] == 0.7
    assert {key: after[key] for key in before} == before
    with pytest.raises(InputError, match="holds no run"):
        Tracker.of("0" * 32, root)


def test_a_database_that_could_not_be_made_whole_is_removed(root, monkeypatch):
    def fail(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlflow.MlflowClient.search_experiments", fail)
    with pytest.raises(InputError, match="No space left"):
        Store(root / "new")
    assert not (root / "new" / "mlflow.db").exists()


def test_a_block_that_raises_leaves_a_failed_run_that_says_why(root):
    with pytest.raises(InputError), Tracker("study", "bad", root=root):
        raise InputError("column response holds 2")
    row = find("bad", root)
    assert row["status"] == "FAILED"
    assert row["tag.error"] == "InputError: column response holds 2"


def test_files_figures_and_reports_come_back(root, tmp_path):
    (tmp_path / "report.html").write_text("<p>hello</p>")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "predictions.csv").write_text("a\n1\n")
    figure = SimpleNamespace(savefig=lambda path: Path(path).write_bytes(b"png"))
    with Tracker("study", "files", root=root) as run:
        run.report(tmp_path / "report.html")
        run.file(tmp_path / "tables")
        run.figure(figure, "calibration")
    out = tmp_path / "out"
    assert download("files", "report/report.html", out, root).read_text() == "<p>hello</p>"
    assert (download(run.id, "tables", out, root) / "predictions.csv").read_text() == "a\n1\n"
    assert download("files", "figures/calibration.png", out, root).read_bytes() == b"png"
    with pytest.raises(InputError, match=r"holds no 'model'; it holds: figures, report, tables"):
        download("files", "model", out, root)


def test_runs_are_found_by_the_beginning_of_id_or_name_and_doubt_is_refused(root):
    made = []
    for name in ("alpha", "alpha-two", "beta", "beta"):
        with Tracker("study", name, root=root) as run:
            made.append(run.id)
    assert runs(root)["run"].to_list() == made[::-1]
    assert find("alpha", root)["run"] == made[0]
    assert find("alpha-", root)["run"] == made[1]
    assert find(made[2][:12], root)["name"] == "beta"
    with pytest.raises(InputError, match="'beta' names 2 runs"):
        find("beta", root)
    with pytest.raises(InputError, match="no run is called 'gamma'; the newest are"):
        find("gamma", root)
    assert runs(root, "no such experiment").is_empty()


def test_two_stores_in_one_process_stay_apart(root, empty_store):
    with Tracker("study", "here", root=root):
        pass
    assert len(runs(root)) == 1
    assert runs(empty_store).is_empty()


def test_parts_name_their_parent(root):
    with (
        Tracker("study", "whole", root=root) as whole,
        Tracker("study", "fold", root=root, parent=whole.id) as part,
    ):
        pass
    tags = Store(root).client.get_run(part.id).data.tags
    assert tags["mlflow.parentRunId"] == whole.id


WORKERS = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from kt_forecast.tracking import Tracker
from kt_forecast.tracking.store import quietly

quietly("mlflow.store.tracking.sqlalchemy_store", "mlflow")

def work(number):
    with Tracker("study", f"worker{number}", root=Path(sys.argv[1])) as run:
        for i in range(1, 21):
            run.epoch(SimpleNamespace(number=i, loss=1.0 / i, metrics={"auc": 0.5}, seconds=1.0,
                                      steps_per_second=1.0, learning_rate=0.1))
            if number == 3 and i == 10:
                os.kill(os.getpid(), signal.SIGKILL)

children = []
for number in range(4):
    child = os.fork()
    if child == 0:
        try:
            work(number)
        finally:
            os._exit(sys.exc_info()[0] is not None)
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def test_four_processes_share_a_fresh_folder_and_a_killed_one_is_marked_failed(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "mlruns"
    command = [sys.executable, "-c", WORKERS, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.stdout.strip() == "[0, 0, 0, -9]", done.stderr
    assert not done.stderr
    table = {row["name"]: row for row in runs(root).iter_rows(named=True)}
    failed = {name for name, row in table.items() if row["status"] == "FAILED"}
    assert (len(table), failed) == (4, {"worker3"})
    assert table["worker3"]["tag.error"] == "the process ended without a word"
    client = Store(root).client
    points = {k: len(client.get_metric_history(r["run"], "train_loss")) for k, r in table.items()}
    assert 0 < points.pop("worker3") <= 10
    assert points == {"worker0": 20, "worker1": 20, "worker2": 20}


def test_a_living_run_is_left_alone(root):
    with Tracker("study", "alive", root=root):
        assert find("alive", root)["status"] == "RUNNING"


FRESH = """
import sys
import pandas as pd
import kt_forecast
from pathlib import Path
from safetensors.numpy import load_file
from kt_forecast.tracking import Store, Tracker, download

class Stub:
    def __init__(self, folder):
        self.p = float(load_file(Path(folder) / "weights.safetensors")["p"])
    def predict_proba(self, table):
        return table.assign(p_correct=self.p)

kt_forecast.load = Stub
root, uri, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
Store(root)
import mlflow
stored = mlflow.pyfunc.load_model(uri)
table = pd.DataFrame(
    {"student": ["a", "a"], "question": [1, 2], "concepts": ["x_y", "z"], "response": [1, None]},
    index=[7, 9],
)
print(stored.predict(table).to_json())
print(download("with model", "note.txt", out, root).read_text())
with Tracker("study", "later", root=root) as run:
    run.text("here", "note.txt")
print((root / "artifacts" / run.id / "artifacts" / "note.txt").read_text())
"""


def test_a_stored_model_predicts_in_a_fresh_process_even_where_the_store_moved(root, tmp_path):
    saved = tmp_path / "saved"
    write_tensors(saved / "weights.safetensors", {"p": torch.tensor(0.25)}, {})
    with Tracker("study", "with model", root=root) as run:
        uri = run.model(saved)
        run.text("hello", "note.txt")
    folder = download("with model", "model", tmp_path / "out", root)
    weights = (folder / "weights.safetensors").read_bytes()
    assert weights == (saved / "weights.safetensors").read_bytes()

    moved = root.rename(tmp_path / "else_where")
    command = [sys.executable, "-c", FRESH, str(moved), uri, str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    said = done.stdout.split()
    assert said == ['{"p_correct":{"7":0.25,"9":0.25}}', "hello", "here"], done.stderr
    assert not root.exists()

    kept = [p for p in (moved / "artifacts" / "models").rglob("*") if p.is_file()]
    assert {p.suffix for p in kept} == {"", ".py", ".txt", ".yaml", ".safetensors"}
    assert not [p for p in kept if p.read_bytes()[:1] == b"\x80"], "nothing is pickled"
    needs = next(p for p in kept if p.name == "requirements.txt").read_text()
    assert set(requirements()) <= set(needs.split())
    assert "+" not in needs


def test_what_is_not_proved_is_registered_for_a_recorded_reason_only(root, tmp_path):
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "weights.txt").write_text("0")
    with Tracker("study", "doubtful", root=root) as run:
        run.model(saved)
        run.verdict("unproven")
    with pytest.raises(InputError, match="verdict of this run is 'unproven'"):
        run.register("tracer")
    assert run.register("tracer", override="history is counted by sorting") == "1"
    version = Store(root).client.get_model_version("tracer", "1")
    assert version.tags["verdict.override"] == "history is counted by sorting"
    assert find("doubtful", root)["tag.verdict.override"] == "history is counted by sorting"
    with Tracker("study", "sound", root=root) as run:
        run.model(saved)
        run.verdict("proved")
    assert run.register("tracer") == "2"


def test_the_environment_names_another_store(root, empty_store, tmp_path, monkeypatch):
    other = Path(shutil.copy(empty_store / "mlflow.db", tmp_path / "other.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    monkeypatch.chdir(tmp_path)
    with Tracker("study", "remote", root=root) as run:
        run.verdict("CLEAN")
    assert find("remote", root)["verdict"] == "CLEAN"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert runs(root).is_empty()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/files")
    with pytest.raises(InputError, match="cannot be opened"):
        Store(root)


def test_versions_say_what_ran():
    assert versions()["torch"] == torch.__version__
    assert code_version(Path("/"))["version"] == code_version()["version"]
    assert "commit" not in code_version(Path("/"))
    assert all("+" not in needed and "==" in needed for needed in requirements())


def test_settings_are_flattened_as_text():
    assert flattened({"a": {"b": {"c": 1}}, "d": None, "e": "x"}) == {
        "a.b.c": "1",
        "d": "null",
        "e": "x",
    }


def test_importing_tracking_does_not_import_mlflow():
    check = "import sys, kt_forecast.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
