"""Several processes at one study, of which one is killed in a trial."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import tuning_toy
from tuning_toy import problem

from kt_forecast.tuning import Found, Place, Search, collect, ledger
from kt_forecast.tuning.frozen import seen
from kt_forecast.tuning.ledger import Trial, Watch
from kt_forecast.tuning.storage import opened
from tests.serving.clients import free_port
from tests.serving.test_postgresql import server  # noqa: F401 - a fixture

SECONDS = 600.0
TRIALS = 10


def started(folder: Path, storage: str, hang: int = 0) -> "subprocess.Popen[bytes]":
    command = [sys.executable, tuning_toy.__file__, str(folder), storage, str(TRIALS), str(hang)]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def until(happened: object, folder: Path) -> None:
    begun = time.monotonic()
    while not happened():  # type: ignore[operator]
        assert time.monotonic() - begun < SECONDS, (folder / "log").read_text()
        time.sleep(0.02)


def ended(folder: Path, *processes: "subprocess.Popen[bytes]") -> None:
    for process in processes:
        assert process.wait(SECONDS) == 0, (folder / "log").read_text()


def found_in(storage: str) -> Found:
    settings = Search(trials=TRIALS, pruner="none", seeds=2, finalists=1)
    return collect(problem(), settings, Place("toy", storage))


def every_trial(storage: str, name: str = "toy") -> list[Trial]:
    with opened(storage) as store:
        study = optuna.load_study(study_name=name, storage=store)
        return [seen(one) for one in study.trials]


SERVER = """
import sys, optuna
from kt_forecast.tuning.storage import open_storage
optuna.storages.run_grpc_proxy_server(
    open_storage(sys.argv[1]), host="localhost", port=int(sys.argv[2])
)
"""


@pytest.fixture
def storage(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    if kind == "grpc":
        pytest.importorskip("grpc", reason="grpcio is not installed")
        port = free_port()
        command = [sys.executable, "-W", "ignore", "-c", SERVER, f"{tmp_path}/grpc.log", str(port)]
        process = subprocess.Popen(command)
        yield f"grpc://localhost:{port}"
        process.kill()
        process.wait(SECONDS)
        return
    if kind == "postgresql":
        url, _ = request.getfixturevalue("server")
        yield url
        return
    yield f"{tmp_path}/journal.log" if kind == "journal" else f"sqlite:///{tmp_path}/study.db"


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("sqlite", "grpc", "postgresql")]


@pytest.mark.parametrize("kind", ["journal", *SLOW])
def test_a_process_is_killed_in_a_trial_and_nothing_is_lost_or_counted_twice(
    tmp_path: Path, storage: str
) -> None:
    victim = started(tmp_path, storage, hang=2)
    until(lambda: list(tmp_path.glob("hangs-*")), tmp_path)
    others = [started(tmp_path, storage) for _ in range(2)]
    until(lambda: len({p.name.split("-")[0] for p in tmp_path.glob("*-*")}) > 1, tmp_path)
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait(SECONDS) == -signal.SIGKILL
    ended(tmp_path, *others)

    found = found_in(storage)
    assert len(found.trials) == TRIALS
    assert {one.state for one in found.trials} <= {"complete", "pruned"}
    assert sum(one.is_default for one in found.trials) == 1
    [lost] = found.lost
    assert lost.reason == "its process ended without a word"
    [retry] = [one for one in found.trials if one.key == ledger.retry_of(lost.number)]
    assert retry.state == "complete"
    assert retry.params == lost.params
    assert retry.notes[ledger.PROCESS] != lost.notes[ledger.PROCESS]

    counted = [*found.trials, *found.lost]
    rest = {one.number for one in every_trial(storage)} - {one.number for one in counted}
    surplus = [one for one in every_trial(storage) if one.number in rest]
    assert all(one.state == "failed" and not one.values for one in surplus)

    finals = every_trial(storage, "toy-finalists")
    keys = Counter(one.key for one in finals if one.state == "complete")
    assert keys
    assert set(keys.values()) == {1}
    trainings = len([p for p in tmp_path.glob("[0-9]*-*") if p.is_file()])
    completed = sum(one.state == "complete" for one in found.trials)
    assert trainings == completed + len(found.lost) + sum(keys.values())


def test_a_trial_whose_process_dies_twice_is_given_up(tmp_path: Path) -> None:
    storage = f"{tmp_path}/journal.log"
    for attempt in (1, 2):
        victim = started(tmp_path, storage, hang=1)
        until(lambda n=attempt: len(list(tmp_path.glob("hangs-*"))) == n, tmp_path)
        victim.kill()
        victim.wait(SECONDS)
    ended(tmp_path, started(tmp_path, storage))
    found = found_in(storage)
    assert len(found.trials) == TRIALS
    assert found.defaults is None
    assert Counter(one.state for one in found.trials)["failed"] == 1
    assert found.winner is not None


def test_processes_that_begin_at_once_share_one_study(tmp_path: Path) -> None:
    storage = f"{tmp_path}/journal.log"
    ended(tmp_path, *(started(tmp_path, storage) for _ in range(3)))
    found = found_in(storage)
    assert len(found.trials) == TRIALS
    assert not found.lost
    assert sum(one.is_default for one in found.trials) == 1
    values = [str(one.params) for one in found.trials]
    assert len(set(values)) == len(values)


def test_a_process_of_another_machine_is_lost_once_it_gives_no_sign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr("kt_forecast.tuning.ledger.time.monotonic", lambda: clock[0])
    watch = Watch()

    def after(seconds: float, beat: int) -> bool:
        clock[0] += seconds
        notes = {ledger.PROCESS: "elsewhere-1 42 1.00", ledger.BEAT: beat}
        return watch.is_lost(Trial(3, "running", notes=notes))

    assert not after(0.0, 1)
    assert not after(ledger.LOST_SECONDS - 1, 1)
    assert not after(2.0, 2), "it gave a sign of life"
    assert not after(ledger.LOST_SECONDS - 1, 2)
    assert after(2.0, 2)
