import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from kt_forecast.data.series.load import load as load_series
from kt_forecast.data.series.splits import ByLast
from kt_forecast.data.series.splits import split as split_series
from kt_forecast.data.simulate import Simulation, simulate, write
from kt_forecast.errors import InputError
from kt_forecast.exporting import run as exporting
from kt_forecast.exporting import writing
from kt_forecast.exporting.forms import Size
from kt_forecast.exporting.run import MANIFEST, TOLERANCE, Wanted, export
from kt_forecast.exporting.tracing import forms
from kt_forecast.forecaster import fitting as forecasting
from kt_forecast.forecaster.systems import plan as plan_series
from kt_forecast.metrics import auc
from kt_forecast.sequences.interactions import Vocabulary
from kt_forecast.tracer import Fitted, KnowledgeTracer, Stream
from kt_forecast.tracer.fitting import _fresh
from kt_forecast.tracer.systems import plan

QUESTIONS, CONCEPTS = tuple("abcdefgh"), tuple("xyz")
SMALL = {"width": 16, "heads": 2}
TRACING = {"identity": 8, "neighbours": 0}
PLAIN = TRACING | {"counts": False, "rates": False}
TASK = {"horizon": 4, "context": 16, "patch": 4, "windows_per_epoch": 64}


def untrained(folder, system="gpt", settings=None, **rest):
    """A tracer with its first weights, saved as if its audit had proved it."""
    chosen = plan(system, SMALL if settings is None else settings, **rest)
    vocabulary = Vocabulary(QUESTIONS, CONCEPTS, ("hints",) if system == "dkt" else ())
    fitted = Fitted(chosen, vocabulary, _fresh(chosen, vocabulary), facts={"verdict": "proved"})
    fitted.save(folder)
    return Fitted.load(folder, device="cpu")


@pytest.fixture(scope="module")
def series():
    random = np.random.default_rng(0)
    stamps = np.datetime64("2024-01-01", "us") + np.arange(90) * np.timedelta64(1, "h")
    y = np.sin(np.arange(90) / 3) + random.normal(size=(2, 90)) / 5
    frames = [pl.DataFrame({"unique_id": f"s{i}", "ds": stamps, "y": y[i]}) for i in range(2)]
    return load_series(pl.concat(frames))


def forecaster(folder, series, system="gpt", members=()):
    roles = split_series(series, ByLast(valid=16, test=8))
    loop = {"epochs": 1} if system != "ridge" else {}
    task = TASK if system != "ridge" else {"horizon": 4, "context": 16}
    settings = SMALL if system == "gpt" else {}
    chosen = plan_series(system, settings, task, loop, members=members)
    fitted = forecasting.fit_plan(chosen, series, roles, device="cpu")
    fitted.facts["verdict"] = "proved"
    fitted.save(folder)
    return fitted


def manifest(folder):
    return json.loads((folder / MANIFEST).read_text())


ALONE = """
import json, sys
import numpy as np, onnxruntime, torch
folder, steps = sys.argv[1], json.loads(sys.argv[2])
form = json.load(open(f"{folder}/manifest.json"))["forms"]["step"]
session = onnxruntime.InferenceSession(f"{folder}/step.onnx")
program = torch.export.load(f"{folder}/step.pt2").module()
told = []
types = {"int64": np.int64, "float32": np.float32}
def first(one):
    shape = [{"batch": 1, "slots": 0}.get(size, size) for size in one["shape"]]
    return np.full(shape, one["start"], types[one["type"]])
states = [{one["name"]: first(one) for one in form["inputs"] if "start" in one}] * 2
for step in steps:
    given = {k: np.array(v, np.float32 if k == "seconds" else np.int64) for k, v in step.items()}
    by_onnx = session.run(None, given | states[0])
    row = [torch.from_numpy((given | states[1])[one["name"]].copy()) for one in form["inputs"]]
    by_torch = [one.detach().numpy() for one in program(*row)]
    told.append([float(by_onnx[0][0]), float(by_torch[0][0])])
    for which, found in enumerate((by_onnx, by_torch)):
        given_back = dict(zip(form["outputs"], found))
        states[which] = {own: given_back[name] for name, own in form["state"].items()}
assert not [name for name in sys.modules if name.startswith("kt_forecast")]
print(json.dumps(told))
"""


def test_the_step_form_follows_a_student_without_this_package(tmp_path):
    fitted = untrained(tmp_path / "model", tracing=PLAIN)
    said = []
    (table,) = export(Wanted(str(tmp_path / "model"), tmp_path / "out", form="step"), said.append)
    assert [row[0] for row in table[2]] == ["step.pt2", "step.onnx"]
    assert all(float(row[2]) <= TOLERANCE for row in table[2])
    facts = manifest(tmp_path / "out")
    assert facts["audit"]["verdict"] == "proved"
    assert facts["names"]["questions"] == list(QUESTIONS)
    assert facts["versions"]["torch"] == torch.__version__
    files = facts["forms"]["step"]["files"]
    assert {len(file["compared"]) for file in files} == {5}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [MANIFEST, *(file["name"] for file in files)]
    )
    for file in files:
        assert b"knowledge_tracing.py" not in (tmp_path / "out" / file["name"]).read_bytes()

    stream, expected, steps = Stream(fitted), [], []
    asked = [("a", ["x"], 1), ("c", ["x", "z"], 0), ("new", [], 1), ("a", ["y"], 1)]
    for number, (question, concepts, response) in enumerate(asked):
        expected.append(stream.ask(question, concepts, time=number * 60_000))
        stream.take(question, concepts, response, time=number * 60_000)
        places = [CONCEPTS.index(c) + 1 for c in concepts] + [0, 0]
        place = QUESTIONS.index(question) + 1 if question in QUESTIONS else 0
        steps.append(
            {
                "question": [place],
                "concepts": [places[:2]],
                "response": [response],
                "event": [number],
                "seconds": [60.0 if number else 0.0],
            }
        )
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(tmp_path / "out")]
    done = subprocess.run(
        [*command, json.dumps(steps)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for (by_onnx, by_torch), own in zip(json.loads(done.stdout), expected, strict=True):
        assert by_onnx == pytest.approx(own, abs=TOLERANCE)
        assert by_torch == pytest.approx(own, abs=TOLERANCE)


@pytest.mark.slow
def test_the_window_form_with_int8_says_what_it_costs(tmp_path):
    data = tmp_path / "answers.csv"
    write(simulate(Simulation(students=12, questions=20, concepts=4)), data)
    tracer = KnowledgeTracer("gpt", settings=SMALL, tracing=TRACING, training={"epochs": 1})
    tracer.fit(data)
    tracer.fitted_.facts["verdict"] = "proved"
    tracer.save(tmp_path / "model")
    wanted = Wanted(
        str(tmp_path / "model"), tmp_path / "out", "onnx", form="window", int8=True, data=data
    )
    first, second = export(wanted, len)
    assert [row[0] for row in first[2]] == ["window.onnx"]
    (found,) = manifest(tmp_path / "out")["int8"]
    before, after = found["score"]
    told = KnowledgeTracer.load(tmp_path / "model").predict_proba(data)
    assert before == pytest.approx(
        auc(told["response"].to_numpy().astype(int), told["p_correct"].to_numpy())
    )
    assert before != after
    assert after == pytest.approx(before, abs=0.05)
    assert found["bytes"][1] < found["bytes"][0]
    assert len(found["milliseconds"]) == 2
    assert second[2][0][0] == "window.int8.onnx"
    with pytest.raises(InputError, match="accepted is --data"):
        export(replace(wanted, data=None, to=tmp_path / "none"), len)


def test_a_recurrent_tracer_takes_one_length(tmp_path):
    untrained(tmp_path / "model", "dkt", {"width": 8})
    export(Wanted(str(tmp_path / "model"), tmp_path / "out", "torch", length=6), len)
    found = manifest(tmp_path / "out")["forms"]
    assert found["window"]["inputs"][0]["shape"] == ["batch", 6]
    assert not found["window"]["any_length"]
    assert "pad every history to 6 steps" in found["window"]["notes"]
    assert {"name": "extras", "type": "float32", "shape": ["batch", 1]} in found["step"]["inputs"]


@pytest.mark.parametrize("system", ["gpt", "ridge"])
def test_a_forecaster_takes_windows(tmp_path, series, system):
    fitted = forecaster(tmp_path / "model", series, system)
    export(Wanted(str(tmp_path / "model"), tmp_path / "out"), len)
    facts = manifest(tmp_path / "out")
    (form,) = facts["forms"].values()
    assert form["inputs"] == [{"name": "context", "type": "float32", "shape": ["batch", 1, 16]}]
    scale = facts["names"]["series"]["s1"]
    y = series.y[series.start[1] : series.start[2]][-16:]
    context = torch.tensor((y - scale["shift"]) / scale["spread"], dtype=torch.float32)
    for file in form["files"]:
        program = writing.read(tmp_path / "out" / file["name"])
        (point,) = program([context[None, None]])
        ahead = point[0, 0].double().numpy() * scale["spread"] + scale["shift"]
        np.testing.assert_allclose(ahead, fitted.forecast(series).point[1], atol=1e-5)


def test_an_ensemble_is_one_file(tmp_path, series):
    members = ({"forecasting": {"normalisation": "last"}},)
    forecaster(tmp_path / "model", series, members=members)
    export(Wanted(str(tmp_path / "model"), tmp_path / "out", "torch"), len)
    (form,) = manifest(tmp_path / "out")["forms"].values()
    assert [one["name"] for one in form["files"]] == ["window.pt2"]


def test_what_cannot_be_exported_is_refused_in_a_sentence(tmp_path, monkeypatch):
    data = tmp_path / "answers.csv"
    write(simulate(Simulation(students=8, questions=10, concepts=4)), data)
    KnowledgeTracer("item_mean").fit(data).save(tmp_path / "mean")
    wanted = Wanted(str(tmp_path / "mean"), tmp_path / "out", "torch", override="a test")
    with pytest.raises(InputError, match="item_mean is a fitted baseline"):
        export(wanted, len)
    with pytest.raises(InputError, match="no audit is stored with it"):
        export(replace(wanted, override=""), len)
    untrained(tmp_path / "long", "hourglass", tracing=PLAIN)
    with pytest.raises(InputError, match="step form of hourglass cannot be exported"):
        export(replace(wanted, model=str(tmp_path / "long"), form="step"), len)
    said: list[str] = []
    with pytest.raises(InputError, match="hourglass cannot be exported"):
        export(replace(wanted, model=str(tmp_path / "long")), said.append)
    assert sum("cannot be exported" in sentence for sentence in said) == 2
    with pytest.raises(InputError, match="int8 writes ONNX"):
        export(replace(wanted, int8=True), len)
    with pytest.raises(InputError, match="accepted are torch, onnx, both"):
        export(replace(wanted, formats="tflite"), len)
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        export(replace(wanted, formats="onnx"), len)
    assert not list((tmp_path / "out").glob("*"))


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    untrained(tmp_path / "model", "dkt", {"width": 8})
    own = exporting.read

    def worse(path):
        program = own(path)
        return lambda given: [one + 1e-3 for one in program(given)]

    monkeypatch.setattr(exporting, "read", worse)
    wanted = Wanted(str(tmp_path / "model"), tmp_path / "out", "torch", form="step")
    with pytest.raises(InputError, match=r"step\.pt2 differs from the model by up to 0\.001"):
        export(wanted, len)
    assert not list((tmp_path / "out").iterdir())


def test_a_wrong_state_is_found(tmp_path):
    """The step form is followed over its own states, so that what it forgets shows."""
    (step, _) = forms(untrained(tmp_path / "model", "dkt", {"width": 8}), 6)

    def forgetful(given):
        found = list(step.module(*given))
        return [found[0], *given[-len(found) + 1 :]]

    with torch.inference_mode():
        assert step.farthest(lambda given: list(step.module(*given)), Size(2, 9)) < TOLERANCE
        assert step.farthest(forgetful, Size(2, 9)) > 100 * TOLERANCE
