"""A run that is killed without warning goes on to the weights it would have had."""

import json
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from tests.e2e import tiny_training

OPTIONS = ["--dropout", "0.3", "--ema", "0.9"]


def start(folder, *options):
    folder.mkdir(exist_ok=True)
    script = tiny_training.__file__
    return subprocess.Popen([sys.executable, script, str(folder), *OPTIONS, *options])


def result(folder):
    facts = json.loads((folder / "rank0.json").read_text())
    return (folder / "rank0.safetensors").read_bytes(), facts["losses"], facts["metrics"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    tiny_training.main([str(folder), *OPTIONS])
    return result(folder)


def test_kill_9_in_the_middle_of_an_epoch_changes_no_bit(tmp_path, undisturbed):
    assert start(tmp_path, "--end", "2.3").wait() == -signal.SIGKILL
    assert [p.name for p in tmp_path.rglob("*.*")] == ["checkpoint.safetensors"]
    assert start(tmp_path).wait() == 0
    assert result(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.0, 0.005, 0.02])
def test_kill_9_from_outside_leaves_a_checkpoint_that_resumes(tmp_path, undisturbed, wait):
    victim = start(tmp_path)
    place = tmp_path / "place" / "checkpoint.safetensors"
    while not place.exists():
        assert victim.poll() is None
        time.sleep(0.001)
    time.sleep(wait)
    victim.kill()
    victim.wait()
    assert start(tmp_path).wait() == 0
    assert result(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_compiled_run_learns_the_same_and_keeps_the_names_of_its_weights(tmp_path):
    runs = []
    for name, options in (("eager", []), ("compiled", ["--compile"])):
        folder = tmp_path / name
        folder.mkdir()
        command = [sys.executable, tiny_training.__file__, str(folder), *options]
        assert subprocess.run(command, check=False, timeout=600).returncode == 0
        runs.append((json.loads((folder / "rank0.json").read_text()), folder))
    assert runs[0][0]["losses"] == pytest.approx(runs[1][0]["losses"], rel=1e-4)
    names = [set(load_file(folder / "rank0.safetensors")) for _, folder in runs]
    assert names[0] == names[1]
