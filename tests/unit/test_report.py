"""The report: what the page says, what it survives, and that it needs nothing beside itself."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kt_forecast import metrics
from kt_forecast.errors import InputError
from kt_forecast.evaluation import PROTOCOLS, Scores, by_answers_seen, calibration
from kt_forecast.metrics import Answers
from kt_forecast.report import (
    CalibrationBin,
    Citation,
    CurveRow,
    Mastery,
    RunRecord,
    Score,
    SeenBin,
    Verdict,
    answers_seen_of,
    calibration_of,
    figures,
    load_record,
    protocol_of,
    readings,
    render,
    words,
    write,
)
from kt_forecast.report.charts import curves
from kt_forecast.report.headlines import headline
from kt_forecast.report.heatmap import MASTERY_STEPS, window
from tests.page import Page
from tests.sample_record import HOSTILE, a_record, score, with_protocol

LARGEST_PAGE_BYTES = 1_500_000
NAN = Score(value=math.nan)


def bare(**changes):
    """A record without figures, which are what takes time."""
    none = {"protocols": (), "curve": (), "calibration": {}, "answers_seen": {}, "mastery": None}
    return a_record(**(none | changes))


@cache
def sample_html():
    return render(a_record())


@cache
def sample_page():
    return Page(sample_html())


def test_record_survives_json():
    record = a_record()
    text = record.to_json()
    assert RunRecord.from_json(text) == record
    assert isinstance(RunRecord.from_json(text).protocols[0].model["auc"], Score)


def test_a_record_written_before_records_said_their_task_is_still_read():
    plain = json.loads(a_record().to_json())
    assert plain.pop("task") == "knowledge_tracing"
    assert RunRecord.from_json(json.dumps(plain)) == a_record()
    assert load_record(json.dumps(plain)) == a_record()


def test_json_is_strict_and_brings_nan_back():
    record = with_protocol(a_record(), model={"auc": NAN})
    text = record.to_json()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert math.isnan(RunRecord.from_json(text).protocols[0].model["auc"].value)


def test_json_takes_numbers_of_numpy():
    record = a_record(settings={"n": np.int64(3), "x": np.float32(0.5), "none": None, "on": True})
    plain = json.loads(record.to_json())["settings"]
    assert plain == {"n": 3, "x": 0.5, "none": None, "on": True}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "run.json, line 1: not JSON"),
        ("[]", "record format None"),
        ('{"format": 99}', "record format 99"),
        ('{"format": 1, "title": "x"}', "system: Field required"),
        ('{"format": 1, "task": "forecasting"}', "a record of 'forecasting'"),
        (a_record().to_json().replace('"licence"', '"license"'), "data.license"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused_in_one_sentence(text, said):
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        RunRecord.from_json(text, "run.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"responses": (0, 1)}, {"practised": ((0,), (0,), (5,))}, {"concepts": ("fractions",)}],
)
def test_mastery_refuses_axes_that_disagree(changes):
    with pytest.raises(ValueError, match="mastery"):
        dataclasses.replace(a_record().mastery, **changes)


def test_headline_quotes_the_model_the_best_baseline_and_their_difference():
    said = headline(a_record())
    assert "gpt" in said
    assert "0.800 [0.790, 0.810]" in said
    assert "best baseline, logistic, reaches 0.750" in said
    assert "ahead by 0.050 [0.040, 0.060]" in said


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (score(-0.05), "behind by 0.050 [0.040, 0.060]"),
        (score(0.0), "not clear"),
        (Score(value=0.05), "reaches 0.750 [0.740, 0.760]."),
    ],
)
def test_headline_claims_no_more_than_the_interval(gap, said):
    page_says = headline(with_protocol(a_record(), differences={"logistic": {"auc": gap}}))
    assert said in page_says
    assert "ahead" not in page_says.replace("which is ahead", "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"baselines": {}, "differences": {}}, "No baseline"),
        ({"model": {"auc": NAN}}, "has no AUC"),
        ({"model": {}}, "has no AUC"),
    ],
)
def test_headline_says_what_is_missing(changes, said):
    assert said in headline(with_protocol(a_record(), **changes))


@pytest.mark.parametrize(("auc", "said"), [(0.502, "holds a half"), (0.9, "LEAK")])
def test_headline_of_a_coin_flip_run_judges_the_pipeline(auc, said):
    record = with_protocol(a_record(coin_flip=True), model={"auc": score(auc)})
    assert said in headline(record)


def test_lower_is_better_where_the_metrics_say_so():
    assert {n for n, m in readings.TRACING.items() if m.higher} == set(metrics.HIGHER_IS_BETTER)
    assert set(readings.TRACING) == set(metrics.METRICS)
    assert words.verdict_on("nll", score(-0.1)) == "better"
    assert words.verdict_on("auc", score(-0.1)) == "worse"
    assert words.verdict_on("unheard_of", score(-0.1)) == "unclear"


def test_intervals_lose_only_leading_noughts():
    assert words.tight(Score(value=1.0, low=-0.5, high=10.5)) == "[\N{MINUS SIGN}.5000, 10.5000]"


@pytest.mark.parametrize("word", ["leak", "LEAK", "Leaks"])
def test_a_leak_is_loud(word):
    verdict = Verdict(verdict=word, findings=("response reaches step 8",))
    page = Page(render(bare(verdict=verdict)))
    assert page.text.count("LEAKS") >= 4
    assert "LEAKS" in headline(a_record(verdict=verdict))
    assert "not to be believed" in page.text
    assert "response reaches step 8" in page.text
    assert any("verdict leaks" in value for _, name, value in page.attributes if name == "class")


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (None, "NOT AUDITED"),
        (Verdict(verdict="proved"), "PROVED"),
        (Verdict(verdict="unproven"), "UNPROVEN"),
    ],
)
def test_other_verdicts_say_no_more_than_they_mean(verdict, said):
    text = Page(render(bare(verdict=verdict))).text
    assert said in text
    assert "LEAKS" not in text


def test_page_shows_every_part():
    text = sample_page().text
    for said in (
        "0.8000",
        "[.7900, .8100]",
        "+0.0500",
        "better",
        "unclear",
        "Within-student AUC",
        "Two rows were merged.",
        "d" * 64,
        "e" * 64,
        "The paper",
        "One layer.",
        "training.clip",
        "kt-forecast train pipelines/sample.toml",
        "validation chose epoch 3",
        "Replace the future",
        "evaluation, training",
        "Other lengths.",
        "fractions",
        "Python",
    ):
        assert said in text, said


def test_page_is_self_contained_and_runs_nothing():
    page = sample_page()
    assert "script" not in page.tags
    assert not {"link", "iframe", "img", "object", "embed"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"src", "srcset", "data", "action", "poster"} or name.endswith("href"):
            inside = value.startswith(("#", "data:image/png"))
            assert inside or (tag == "a" and value.startswith("https://example.org/"))
    assert not re.search(r"url\((?!#)|@import", sample_html())


def test_hostile_names_stay_text():
    record = a_record(
        name=HOSTILE,
        rival=HOSTILE[::-1],
        title=HOSTILE,
        command=HOSTILE,
        environment={HOSTILE: HOSTILE},
        settings={HOSTILE: {HOSTILE: HOSTILE}},
        citations=(Citation(title=HOSTILE, url="javascript:alert(1)"),),
        verdict=Verdict(verdict=HOSTILE, findings=(HOSTILE,), scope={HOSTILE: HOSTILE}),
        mastery=dataclasses.replace(
            a_record().mastery, student=HOSTILE, concepts=(HOSTILE, "_$\\unknown$")
        ),
    )
    page = Page(render(record))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [value for _, name, value in page.attributes if value.startswith("javascript")]
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script>document.title" in page.text
    assert "_$\\unknown$" in page.text


def test_names_of_other_scripts_and_control_characters_are_shown():
    concepts = ("乘法分配律", "زاوية\u202e\x00\x1b")
    record = a_record(mastery=dataclasses.replace(a_record().mastery, concepts=concepts))
    text = Page(render(record)).text
    assert "乘法分配律" in text
    assert "زاوية" in text
    assert not set("\u202e\x00\x1b") & set(text)


def test_every_figure_has_words_and_ids_of_its_own():
    page = sample_page()
    assert len(page.ids) == len(set(page.ids))
    drawn = page.tags.count("svg")
    images = [value for _, name, value in page.attributes if (name, value) == ("role", "img")]
    labels = [v for t, name, v in page.attributes if (t, name) == ("div", "aria-label") and v]
    assert drawn == len(images) == len(figures(a_record()))
    for said in (
        "gpt 0.800 [0.790, 0.810]",
        "from 0.700 to 0.700",
        "observed 30.0%",
        "algebra from",
    ):
        assert any(said in label for label in labels), said
    assert {v for t, n, v in page.attributes if t == "th" and n == "scope"} == {"col", "row"}
    scoped = sum(t == "th" and n == "scope" for t, n, _ in page.attributes)
    assert scoped == page.tags.count("th")


def test_references_inside_figures_find_their_ids():
    text, page = sample_html(), sample_page()
    wanted = {v[1:] for _, n, v in page.attributes if n.endswith("href") and v.startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert len(wanted) > 20
    assert wanted <= set(page.ids)


def test_figures_follow_the_colours_of_the_page_there_and_stand_alone_elsewhere():
    assert "var(--model)" in sample_html()
    alone = figures(a_record())
    assert set(alone) == {
        "scores_1_full_auc",
        "scores_1_full_auc_within_student",
        "scores_1_full_nll",
        "calibration",
        "answers_seen",
        "loss",
        "validation_auc",
        "mastery",
    }
    for svg in alone.values():
        assert svg.startswith(b"<?xml")
        assert b"var(--" not in svg


def test_an_objective_that_is_no_log_loss_stands_apart():
    plain, apart = a_record(), a_record(objective="Log loss plus <another>")
    assert "objective" not in figures(plain)
    assert "objective" in figures(apart)
    page = Page(render(apart)).text
    assert "Training objective" in page
    assert "Log loss plus <another>. Not to be compared with log losses" in page
    shown = {picture.name: picture for picture in curves(apart)}
    assert "validation log loss" in shown["loss"].alt
    assert "training" not in shown["loss"].alt.partition(":")[2]
    assert "training from" in shown["objective"].alt
    whole = {picture.name: picture for picture in curves(plain)}
    assert "training from" in whole["loss"].alt


def test_figures_and_page_are_the_same_to_the_byte():
    assert figures(a_record()) == figures(a_record())
    assert render(a_record()) == sample_html()


def test_colours_are_replaced_in_tags_only():
    assert "#1f5fbf" in Page(render(a_record(name="#1f5fbf"))).text


@pytest.mark.parametrize(
    "record",
    [
        with_protocol(a_record(), model={"auc": NAN, "nll": NAN}),
        with_protocol(a_record(), model={}, baselines={}, differences={}),
        with_protocol(a_record(), baselines={"logistic": {"auc": NAN}}),
        with_protocol(a_record(), model={"auc": Score(value=0.7)}),
        a_record(protocols=()),
        a_record(curve=a_record().curve[:1], best_epoch=1),
        a_record(curve=(CurveRow(epoch=1, loss=math.nan, metrics={"auc": math.nan}),)),
        a_record(curve=(), best_epoch=None),
        a_record(calibration={}, answers_seen={}, mastery=None, verdict=None),
        a_record(
            calibration={"gpt": (CalibrationBin(predicted=math.nan, observed=math.nan, count=0),)},
            answers_seen={"gpt": (SeenBin(first=0, last=None, count=0, auc=NAN),)},
        ),
        a_record(
            mastery=Mastery(
                student="s",
                concepts=("c",),
                p_correct=((0.5,),),
                practised=((0,),),
                responses=(1,),
            )
        ),
        a_record(
            mastery=Mastery(
                student="s",
                concepts=("c",),
                p_correct=((math.nan,),),
                practised=((),),
                responses=(1,),
            )
        ),
        a_record(
            mastery=Mastery(student="s", concepts=(), p_correct=(), practised=(), responses=())
        ),
    ],
)
def test_what_is_missing_leaves_a_whole_page(record):
    text = render(record)
    assert "</html>" in text
    assert "nan" not in Page(text).text.lower().replace("nanny", "").split()
    assert RunRecord.from_json(record.to_json()).to_json() == record.to_json()


def test_a_missing_baseline_is_called_out():
    text = Page(render(with_protocol(a_record(), baselines={}, differences={}))).text
    assert "No baseline was run" in text


def test_a_long_history_and_many_names_fit_the_page():
    n_steps, n_concepts = 3000, 300
    random = np.random.default_rng(0)
    mastery = Mastery(
        student="long",
        concepts=tuple(f"concept {i} " + "x" * 200 for i in range(n_concepts)),
        p_correct=tuple(map(tuple, random.random((n_steps, n_concepts)).tolist())),
        practised=tuple((int(c),) for c in random.integers(n_concepts, size=n_steps)),
        responses=tuple(random.integers(2, size=n_steps).tolist()),
    )
    view = window(mastery)
    assert list(view.steps) == list(range(n_steps - MASTERY_STEPS, n_steps))
    record = a_record(
        mastery=mastery,
        protocols=tuple(
            dataclasses.replace(a_record().protocols[0], name=name) for name in ("a", "b", "c", "d")
        ),
        curve=tuple(CurveRow(epoch=e, loss=1 / e, metrics={"auc": 0.7}) for e in range(1, 500)),
    )
    page = render(record)
    assert len(page.encode()) < LARGEST_PAGE_BYTES
    assert f"last {MASTERY_STEPS} of 3\u202f000 answers" in page


def test_protocols_of_one_spelling_keep_their_figures_apart():
    first = a_record().protocols[0]
    twice = (dataclasses.replace(first, name="全部"), dataclasses.replace(first, name="部分"))
    record = a_record(protocols=twice)
    assert len([name for name in figures(record) if name.endswith("_auc")]) == 3
    page = Page(render(record))
    assert len(page.ids) == len(set(page.ids))


def test_writing_replaces_the_whole_file_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "new folder" / "report.html"
    write(bare(title="First"), path)
    assert "First" in path.read_text("utf-8")

    def broken(self, target):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", broken)
        with pytest.raises(OSError, match="no space"):
            write(bare(title="Second"), path)
    assert "First" in path.read_text("utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_surrogates_do_not_stop_the_writing(tmp_path):
    write(bare(command="caf\udce9"), tmp_path / "report.html")
    assert "caf?" in (tmp_path / "report.html").read_text("utf-8")


def test_evaluations_become_parts_of_the_record():
    random = np.random.default_rng(0)
    answers = Answers(
        response=random.integers(2, size=200),
        p_correct=random.random(200),
        student=np.repeat(np.arange(10), 20),
    )
    seen = np.tile(np.arange(20), 10)
    scores = Scores(
        protocol="full",
        rules=PROTOCOLS["full"],
        metrics=metrics.score(answers, resamples=20),
        n_rows=200,
        n_students=10,
        predictions=pl.DataFrame(),
        by_answers_seen=by_answers_seen(answers, seen, resamples=20),
        calibration=calibration(answers),
        notes=("auc_within_concept is not defined: no concept has both responses",),
        answers=answers,
    )
    protocol = protocol_of(scores, {"rival": scores}, {"rival": scores.metrics})
    bins, parts = calibration_of(scores), answers_seen_of(scores)
    assert protocol.model["auc"].value == scores.metrics["auc"].value
    assert sum(b.count for b in bins) == sum(p.count for p in parts) == 200
    assert parts[0].first == 0
    assert [p.first for p in parts] == sorted(p.first for p in parts)
    text = Page(
        render(
            a_record(protocols=(protocol,), calibration={"gpt": bins}, answers_seen={"gpt": parts})
        )
    ).text
    assert "auc_within_concept is not defined" in text
    assert "n/a" in text


def test_importing_the_report_loads_no_heavy_library():
    code = (
        "import sys, kt_forecast.report; "
        "print([m for m in ('matplotlib', 'jinja2', 'torch', 'polars') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
