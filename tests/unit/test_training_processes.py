"""Runs made at once: who begins when, on which GPU, and what is left when the time ends."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest

from kt_forecast.experiment import training_processes
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.training_processes import (
    NOT_BEGUN,
    NOT_SCORED,
    Clock,
    Task,
    _next,
    heard,
    in_turn,
    make_each,
    put_back,
    seat,
    set_aside,
)

WORKER = '''
"""Follows the protocol of the processes without training: titles tell what to do."""
import json, os, signal, sys, time
from pathlib import Path

ended = []
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
for line in iter(sys.stdin.readline, ""):
    spec = Path(line.strip())
    title = spec.stem.split("-", 3)[3]
    done = {"folder": None, "scored": None, "why": "", "closing": 0.01, "broken": False}
    if title.startswith("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if title.startswith("fails"):
        print("out of memory", file=sys.stderr)
        done |= {"why": "RuntimeError: it broke", "broken": True}
    while title.startswith("long") and not ended or title.startswith("stuck"):
        time.sleep(0.01)
    done["folder"] = f"{title} by {os.getpid()} on {os.environ.get('CUDA_VISIBLE_DEVICES')}"
    part = spec.with_suffix(".part")
    part.write_text(json.dumps(done))
    part.replace(spec.with_suffix(".done"))
    if done["broken"]:
        sys.exit(1)
'''
RECIPE = Recipe.parse({"data": {"source": "nowhere.csv"}}, "test")


@pytest.fixture
def crew(tmp_path, monkeypatch):
    """Return what makes tasks with processes that only follow the protocol."""
    (tmp_path / "stub_of_a_worker.py").write_text(WORKER)
    monkeypatch.setattr(training_processes, "WORKER", "stub_of_a_worker")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def make(titles, *, workers=2, clock=None, heard=None, kin=lambda number: 0):
        tasks = [
            Task(number, title, kin(number), RECIPE if not title.startswith("score") else None)
            for number, title in enumerate(titles)
        ]
        told = [].append if heard is None else heard.append
        place = {"runs": tmp_path / "runs", "device": "cpu", "say": told}
        return make_each(tasks, workers=workers, clock=clock or Clock(), **place)

    return make


def ends(found):
    return {one.task.title: (str(one.folder).split(" ")[0], one.why) for one in found}


def test_one_process_takes_several_and_one_that_dies_takes_no_other_with_it(crew):
    said = []
    found = list(crew(["dies", "a", "b", "fails", "c"], workers=1, heard=said))
    told = ends(found)
    assert "signal 9" in told.pop("dies")[1]
    assert told.pop("fails")[1] == "RuntimeError: it broke"
    assert told == {name: (name, "") for name in "abc"}
    process = {one.task.title: str(one.folder).split(" ")[2] for one in found if one.folder}
    assert process["a"] == process["b"] == process["fails"] != process["c"]
    assert "1 at once" in said[0]


def test_at_the_end_of_the_time_what_trains_ends_and_the_rest_is_left_out(crew):
    clock = Clock(60.0)
    clock.began -= 60.0 * 0.69
    found = ends(crew(["long", "score", "late"], workers=1, clock=clock))
    assert found["long"] == ("long", "")
    assert found["late"] == ("None", NOT_BEGUN)
    assert found["score"] == ("score", ""), "what only is to be scored still is"


def test_a_run_is_scored_and_goes_on_as_two_tasks_of_one_number(crew, tmp_path):
    list(crew(["a"], workers=1))
    both = [Task(0, "a", 0, run=Path("here")), Task(0, "a", 0, RECIPE, Path("here"))]
    place = {"runs": tmp_path / "runs", "device": "cpu", "say": [].append}
    assert len(list(make_each(both, workers=1, clock=Clock(), **place))) == 2
    done = {path.name.split("-", 1)[1] for path in (tmp_path / "runs").glob("compare/*.done")}
    assert done == {"0-score-a.done", "0-train-a.done"}


def test_what_does_not_end_in_time_is_not_waited_for(crew):
    found = ends(crew(["stuck", "score"], workers=1, clock=Clock(0.5)))
    assert found == {"stuck": ("None", NOT_SCORED), "score": ("None", NOT_SCORED)}


def test_an_interrupt_asks_for_the_end_once_and_ends_at_the_second(crew):
    clock, said = Clock(), []
    with heard(clock, said.append):
        made = crew(["long", "late"], workers=1, clock=clock)
        Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert ends(made) == {"late": ("None", NOT_BEGUN), "long": ("long", "")}
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert said[0].startswith("SIGTERM: scoring what is there")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_processes_are_dealt_out_to_the_gpus_that_are_visible(monkeypatch):
    import torch

    for name in training_processes.THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = [seat(number, 8, "cuda") for number in range(8)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["0", "1", "2", "3"] * 2
    assert {one[name] for one in found for name in training_processes.THREADS} == {"8"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    named = [seat(number, 3, "auto")["CUDA_VISIBLE_DEVICES"] for number in range(3)]
    assert named == ["GPU-a", "7", "GPU-a"]
    assert "CUDA_VISIBLE_DEVICES" not in seat(0, 3, "cpu")


def test_each_process_finds_its_gpu_whatever_this_one_sees(crew, monkeypatch):
    def seated(number, workers, device):
        return {"CUDA_VISIBLE_DEVICES": str(number % 2)}

    monkeypatch.setattr(training_processes, "seat", seated)
    found = list(crew(["a", "b"], workers=2))
    assert sorted(str(one.folder).split(" ")[-1] for one in found) == ["0", "1"]


def test_every_recipe_gets_its_first_system_before_any_gets_its_second():
    tasks = [Task(i, str(i), kin=i // 3, recipe=RECIPE) for i in range(6)]
    tasks[4] = replace(tasks[4], recipe=None, run=Path("here"))
    assert [one.number for one in in_turn(tasks)] == [4, 0, 3, 1, 2, 5]


def test_a_process_prefers_what_it_has_the_table_of_within_one_turn():
    def waiting():
        return [Task(i, str(i), kin=i % 3) for i in range(6)]

    assert _next(waiting(), {2}).number == 2
    assert _next(waiting(), set()).number == 0
    later = waiting()[:1] + waiting()[3:]
    assert _next(later, {2}).number == 0, "the first one is not passed over for ever"


def test_time_is_kept_for_scoring_by_the_longest_so_far(monkeypatch):
    clock = Clock(100.0, began=0.0)
    monkeypatch.setattr(training_processes.time, "monotonic", lambda: 60.0)
    assert clock.reserved == pytest.approx(30.0)
    assert not clock.is_late
    clock.took(28.0)
    clock.took(4.0)
    assert clock.reserved == pytest.approx(42.0)
    assert clock.is_late
    assert not clock.is_over
    clock.took(1000.0)
    assert clock.reserved == pytest.approx(50.0)
    assert not Clock(None).is_late


def test_a_run_that_was_set_aside_comes_back_unless_its_place_is_taken(tmp_path):
    away, home = set_aside(tmp_path) / "x", tmp_path / "runs" / "x"
    away.mkdir(parents=True)
    home.parent.mkdir()
    put_back(away, tmp_path)
    assert home.is_dir()
    assert not away.exists()
    away.mkdir()
    put_back(away, tmp_path)
    assert not away.exists()


def test_no_process_outlives_the_loop(crew):
    made = crew(["long", "a"], workers=2)
    first = next(made)
    pid = int(str(first.folder).split(" ")[2])
    made.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
