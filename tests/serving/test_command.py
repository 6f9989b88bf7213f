"""The command: what it refuses, and what it does not load."""

import subprocess
import sys

import pytest


def _run(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kt_forecast.cli", "serve", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_help_loads_no_server_and_no_torch():
    code = (
        "import sys\nfrom kt_forecast.cli import app\nfrom typer.testing import CliRunner\n"
        "found = CliRunner().invoke(app, ['serve', '--help'])\n"
        "assert found.exit_code == 0 and '--override' in found.output\n"
        "print([x for x in ('torch', 'fastapi', 'sqlalchemy', 'mlflow') if x in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("word", ["no such run", "unaudited"])
def test_what_cannot_be_served_is_refused_in_one_sentence(tracers, tmp_path, word):
    model = str(tracers()) if word == "unaudited" else word
    done = _run(model, "--runs", str(tmp_path), "--port", "0")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert ("--override" if word == "unaudited" else "no run is called") in done.stderr
    assert not (tmp_path / "serving").exists()
