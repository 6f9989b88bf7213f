"""One process that makes and scores runs: what ends early, goes on, and is kept."""

import json
from pathlib import Path

import pytest

from kt_forecast.data.simulate import Simulation, simulate, write
from kt_forecast.experiment import find
from kt_forecast.experiment.running import CHECKPOINTS
from kt_forecast.experiment.scoring import SCORES, Bench, Scored, kept
from kt_forecast.experiment.station import Station
from kt_forecast.experiment.stored import REPORT, RUNS
from kt_forecast.experiment.training_processes import NO_EPOCH, Job, set_aside
from kt_forecast.experiment.training_worker import work_on


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A table and a folder of runs."""
    folder = tmp_path_factory.mktemp("worker")
    write(
        simulate(Simulation(students=24, mean_steps=10, questions=10, concepts=3)),
        folder / "a.csv.gz",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kt_forecast.experiment.flow.audited", proved)
        yield folder


def proved(*_):
    from kt_forecast.audit import Report

    return Report("proved", scope={})


def job(folder, name, *, run=None, system="gpt", **training):
    plain = {
        "name": name,
        "data": {"source": str(folder / "a.csv.gz")},
        "model": {"system": system, "settings": {"width": 8, "heads": 1}},
        "training": {"epochs": 4, "patience": 4, "steps_per_batch": 64} | training,
        "evaluation": {"bootstraps": 20},
        "tracking": {"enabled": False},
    }
    spec = folder / f"{name}.json"
    told = Job(task="knowledge_tracing", recipe=plain, run=run, runs=str(folder), device="cpu")
    spec.write_text(told.model_dump_json())
    return spec


def after(asked):
    """Return what asks for the end after so many batches."""
    seen = iter(range(asked))
    return lambda: next(seen, None) is None


def test_a_training_that_is_asked_to_end_is_scored_and_goes_on_to_the_same_numbers(place):
    early = work_on(job(place, "early"), Station(ends=after(8), pages=False))
    assert (early["why"], early["broken"]) == ("", False)
    row = Scored.read(early["scored"]).rows[0]
    done = len(find("early", place).record.curve)
    assert row.early == f"{done} of 4 epochs"
    assert 0 < done < 4
    assert row.early in row.cells(is_best=False)[5]
    assert early["closing"] > 0
    assert not (place / RUNS / "early" / REPORT).exists()
    assert list((place / CHECKPOINTS).iterdir())
    again = work_on(job(place, "early", run=early["folder"]), Station(pages=False))
    assert again["folder"] == early["folder"]
    assert Scored.read(again["scored"]).rows[0].early == ""
    assert not list(set_aside(place).iterdir())
    assert not list((place / CHECKPOINTS).iterdir())
    whole = work_on(job(place, "whole"), Station(pages=False))
    one, other = (find(found["folder"], place).record for found in (again, whole))
    assert [epoch.loss for epoch in one.curve] == [epoch.loss for epoch in other.curve]
    assert one.protocols[0].model == other.protocols[0].model


def test_a_training_without_an_epoch_is_left_out_and_keeps_its_place(place):
    done = work_on(job(place, "late", learning_rate=0.002), Station(ends=after(2)))
    assert (done["folder"], done["why"], done["broken"]) == (None, NO_EPOCH, False)
    assert done["closing"] is None
    assert not (place / RUNS / "late").exists()
    assert list((place / CHECKPOINTS).glob("*/*.safetensors"))


def test_what_fails_says_why_and_what_is_no_input_ends_the_process(place, monkeypatch):
    spec = job(place, "bad", epochs=0)
    assert "epochs" in work_on(spec, Station())["why"]

    def broken(*_, **__):
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr("kt_forecast.experiment.flow.fit_plan", broken)
    done = work_on(job(place, "breaks"), Station())
    assert (done["why"], done["broken"]) == ("RuntimeError: out of memory", True)


def test_tables_and_baselines_are_made_once_and_scores_once_for_all(place, monkeypatch):
    from kt_forecast.experiment import flow, tables

    read, scored = [], []
    load, evaluate = tables.load, flow.evaluate
    monkeypatch.setattr(tables, "load", lambda *a, **k: read.append(1) or load(*a, **k))

    def counted(one, *args, **settings):
        scored.append(one.plan.name)
        return evaluate(one, *args, **settings)

    monkeypatch.setattr(flow, "evaluate", counted)
    station = Station(pages=False)
    for seed in (1, 2):
        done = work_on(job(place, f"s{seed}", epochs=1, learning_rate=seed / 100), station)
        assert done["why"] == ""
    assert len(read) == 1
    assert sorted(scored) == ["gpt", "gpt", "item_mean", "logistic"]
    run = find("s2", place)
    found = kept(run, place)
    assert found == Bench(place, "cpu", read.append).score(run)
    assert len(read) == 1, "what was found is not found again"
    path = place / SCORES / "s2.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "of another version"}))
    assert kept(run, place) is None
    fresh = Bench(place, "cpu", read.append).score(run)
    assert [one.draws for one in fresh.rows] == [one.draws for one in found.rows]
    assert isinstance(fresh.place.key, tuple)
    assert Path(path).is_file()
