"""Runs, artifacts and registered models on a real MLflow server, reached by its URL alone."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from kt_forecast.data.simulate import Simulation, simulate, write
from tests.e2e.test_cli import KT_FORECAST

STARTS_WITHIN = 600
TINY = """
name = "tiny"
[data]
source = "answers.csv.gz"
[model]
system = "gpt"
[model.settings]
width = 8
heads = 1
[training]
epochs = 1
[evaluation]
bootstraps = 10
"""


def answers(url):
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as reply:  # noqa: S310 - loopback
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Start MLflow's own server with a database and artifacts that only it can reach."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [
        *(str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1"),
        *("--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/server.db"),
        *("--serve-artifacts", "--artifacts-destination", str(folder / "kept")),
    ]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        ends = time.monotonic() + STARTS_WITHIN
        while not answers(url):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < ends, (folder / "log").read_text()
            time.sleep(0.2)
        yield url, folder
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def typed(*arguments, cwd, **more):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"} | more
    told = subprocess.run(
        [str(KT_FORECAST), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


@pytest.mark.slow
def test_a_run_goes_to_a_server_and_its_model_comes_back_from_it(server, tmp_path):
    url, folder = server
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    write(simulate(Simulation(students=30, mean_steps=12, questions=15)), one / "answers.csv.gz")
    (one / "tiny.toml").write_text(TINY)
    typed("train", "tiny.toml", "--tracking", url, "--device", "cpu", cwd=one)
    assert not (one / "mlruns" / "mlflow.db").exists(), "nothing is recorded here"
    kept = {path.name for path in (folder / "kept").rglob("*") if path.is_file()}
    assert {"audit.html", "audit.json", "report.html", "model.safetensors"} <= kept

    told = typed("promote", "tiny", "--alias", "champion", "--tracking", url, cwd=one)
    assert "tiny@champion is version 1" in told

    told = typed("runs", "--where", "system = gpt", cwd=other, MLFLOW_TRACKING_URI=url)
    assert "tiny" in told
    assert "conditional" in told
    told = typed(
        *("predict", "tiny@champion", str(one / "answers.csv.gz"), "--out", "p.csv"),
        *("--device", "cpu"),
        cwd=other,
        MLFLOW_TRACKING_URI=url,
    )
    assert (other / "p.csv").read_text().splitlines()[0].endswith("p_correct")

    script = (
        "import sys; from kt_forecast import KnowledgeTracer, load\n"
        "one = load('tiny@champion', device='cpu')\n"
        "two = KnowledgeTracer.load('models:/tiny@champion', device='cpu')\n"
        "same = one.predict_proba(sys.argv[1])['p_correct'] == "
        "two.predict_proba(sys.argv[1])['p_correct']\n"
        "print(type(one).__name__, same.all())"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(one / "answers.csv.gz")],
        capture_output=True,
        text=True,
        check=False,
        cwd=other,
        env=os.environ | {"MLFLOW_TRACKING_URI": url, "OMP_NUM_THREADS": "1"},
    )
    assert told.stdout.split() == ["KnowledgeTracer", "True"], told.stderr
