"""The study of pooling: what leaks is seen, what does not is left alone, and nothing is lost."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kt_forecast.data.tables import load
from kt_forecast.errors import InputError
from kt_forecast.evaluation import evaluate
from kt_forecast.experiment import auditing
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.study import Prefixes, first_steps, leak_map, pooling_study
from kt_forecast.report.study import PoolingStudy
from kt_forecast.report.study import leak_map as drawn_map
from kt_forecast.sequences.build import build, fit_vocabulary
from kt_forecast.tasks.knowledge_tracing import Tracer, TracingConfig
from kt_forecast.zoo import load as load_system

SETTINGS = {
    "seed": 1,
    "history": 12,
    "data": {"source": "sample"},
    "model": {"system": "informer", "settings": {"width": 8, "heads": 2, "expansion": 1}},
    "tracing": {"scheme": "shifted", "identity": 0, "neighbours": 0},
    "training": {"epochs": 1, "steps_per_batch": 4096},
    "evaluation": {"bootstraps": 20},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    recipe = Recipe.parse(SETTINGS | {"name": "tiny"}, "the test")
    said = []
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for name, few in {"STUDENTS": 2, "STEPS": 12, "MOMENTS": 2}.items():
            patch.setattr(auditing, name, few)
        done = pooling_study(recipe, runs=runs, device="cpu", say=said.append)
    return done, said, runs


def test_the_published_pooling_leaks_and_the_causal_one_does_not(study):
    causal, published = study[0].record.poolings
    moved = np.array(causal.moved)
    assert not np.tril(moved).any()
    assert np.triu(moved, 1).any()
    assert causal.share_moved == 0.0
    assert causal.largest_gap < 1e-5
    assert causal.verdict != "leak"
    assert np.diag(published.moved)[:-1].all(), "a prediction moves with its own answer"
    assert published.share_moved > 0.3
    assert published.largest_gap > 1e-3
    assert published.verdict == "leak"
    assert published.invented["auc"].value == pytest.approx(
        published.at_once["auc"].value - published.step_by_step["auc"].value
    )


def test_its_folder_holds_the_record_and_a_page_of_its_own(study):
    done, said, runs = study
    assert done.folder == runs / "runs" / "tiny"
    text = (done.folder / "study.json").read_text(encoding="utf-8")
    assert PoolingStudy.from_json(text) == done.record
    page = (done.folder / "report.html").read_text(encoding="utf-8")
    for said_on_it in ("LEAKS", "invented", "step by step", "leak_map-", "step replaced by step"):
        assert said_on_it in page
    for outside in ("<script", 'src="', "@import", "mathdefault"):
        assert outside not in page
    assert Recipe.read(done.folder / "recipe.toml").model.settings == SETTINGS["model"]["settings"]
    title, header, rows = done.tables()[0]
    assert "test students" in title
    assert [row[0] for row in rows] == [
        f"{pooling}, {way}"
        for pooling in ("causal", "published")
        for way in ("in one pass", "step by step", "invented")
    ]
    assert all(len(row) == len(header) for row in rows)
    assert done.closing()[0].startswith("Yes: ")
    assert any("published pooling, step by step" in sentence for sentence in said)


def test_a_study_without_a_leak_says_no(study):
    record = study[0].record
    honest = replace(record, poolings=(record.poolings[0], record.poolings[0]))
    assert honest.answer().startswith("No: ")
    assert drawn_map(honest).svg


def test_another_system_is_refused(tmp_path):
    recipe = Recipe.parse({"data": {"source": "sample"}}, "the test")
    with pytest.raises(InputError, match="accepted is a recipe of 'informer'"):
        pooling_study(recipe, runs=tmp_path, say=lambda _: None)


@pytest.fixture(scope="module")
def sequences():
    table = load("sample")
    vocabulary = fit_vocabulary(table)
    return first_steps(build(table, vocabulary), 12), vocabulary, table


def test_the_first_steps_are_those_of_every_student(sequences):
    cut, vocabulary, table = sequences
    whole = build(table, vocabulary)
    assert cut.n_students == whole.n_students
    for student in (0, 7, whole.n_students - 1):
        a, b = int(cut.start[student]), int(cut.start[student + 1])
        begin = int(whole.start[student])
        assert b - a == min(12, int(whole.start[student + 1]) - begin)
        for field in ("question", "response", "event", "row", "scored"):
            ours, theirs = getattr(cut, field)[a:b], getattr(whole, field)[begin : begin + b - a]
            assert torch.equal(ours, theirs)
        ours = cut.concept[cut.concept_start[a] : cut.concept_start[b]]
        first, last = whole.concept_start[begin], whole.concept_start[begin + b - a]
        assert torch.equal(ours, whole.concept[first:last])


def test_prefixes_of_a_causal_model_give_what_one_pass_gives(sequences):
    cut, vocabulary, _ = sequences
    torch.manual_seed(0)
    system = load_system("gpt")
    tracer = Tracer(system, system.config(width=16), TracingConfig(), vocabulary).eval()
    found = evaluate(Prefixes(tracer, "cpu"), cut, resamples=0).answers.p_correct

    class Once:
        def predict(self, sequences, *, history=None, unit="steps"):
            from kt_forecast.tasks.prediction import predict

            return predict(tracer, sequences)

    once = evaluate(Once(), cut, resamples=0).answers.p_correct
    np.testing.assert_allclose(found, once, atol=1e-6)
    moved, share = leak_map(tracer, cut)
    assert moved.shape == (12, 12)
    assert share == 0.0
    assert (np.diag(moved, 1) > 0).all()
