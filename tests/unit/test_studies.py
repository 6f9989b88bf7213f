"""The studies of memory, at toy size: what is deterministic is held, the rest must come out."""

import json
import subprocess
import sys

import pytest
import torch

from kt_forecast.errors import InputError
from kt_forecast.studies import STUDIES, draw, measuring, run_study
from kt_forecast.studies.budget import BudgetSettings, held, reached, stored
from kt_forecast.studies.growth import expected as expected_seconds
from kt_forecast.studies.latency import LatencySettings, cache_of, repeated
from kt_forecast.studies.measuring import (
    interleaved,
    last_slope,
    peak_bytes,
    slope,
    timed,
    wilson,
)
from kt_forecast.studies.needle import (
    NeedleSettings,
    SeriesTask,
    StudentTask,
    asked,
    reach,
    train,
)
from kt_forecast.studies.record import StudyRecord
from kt_forecast.studies.reuse import EQUAL, ReuseSettings, equal, expected
from kt_forecast.studies.running import RUNNING, load, replaced
from kt_forecast.studies.study import Clock
from kt_forecast.studies.systems import bytes_of
from kt_forecast.studies.words import times
from tests.browser import asked as asked_page
from tests.browser import needs_browser

SMALL = ["width=8", "heads=2"]


def run(name, tmp_path, *sets):
    said = []
    record = run_study(name, [*SMALL, *sets], device="cpu", out=tmp_path / "out", say=said.append)
    text = (tmp_path / "out" / f"{name}.json").read_text(encoding="utf-8")
    assert StudyRecord.from_json(text, name).to_json() == text
    page = (tmp_path / "out" / f"{name}.html").read_text(encoding="utf-8")
    for outside in ("<script", 'src="', "@import", "mathdefault"):
        assert outside not in page
    assert all(table.title in page for table in record.tables)
    assert page.count("<svg") == len(record.charts)
    for named in ("processor", "threads", "torch", "device", "precision"):
        assert record.machine[named], named
    assert said
    assert record.answers
    return record


def test_growth_finds_what_grows_how(tmp_path):
    sets = ["lengths=[64,256,1024]", 'systems=["gpt","retnet"]', "layers=1"]
    record = run("growth", tmp_path, *sets)
    rows = [row for row in record.rows if "length" in row]
    assert [(row["system"], row["length"]) for row in rows] == [
        (name, length) for name in ("gpt", "retnet") for length in (64, 256, 1024)
    ]
    assert all(row["repeats"] >= 5 and row["low"] <= row["seconds"] <= row["high"] for row in rows)
    slopes = {(r["system"], r["exponent"]): r for r in record.rows if "exponent" in r}
    assert slopes["retnet", "peak_bytes"]["over_the_last"] == pytest.approx(1.0, abs=0.15)
    assert slopes["retnet", "moved_bytes"]["over_the_last"] == pytest.approx(1.0, abs=0.1)
    assert slopes["gpt", "operations"]["over_the_last"] == 0.0
    assert all(row["operations"] > 0 for row in rows)


def test_growth_leaves_out_what_would_take_too_long(tmp_path):
    sets = ["lengths=[32,64,128]", 'systems=["gpt"]', "limit=1e-9"]
    record = run("growth", tmp_path, *sets)
    left = [row["left_out"] for row in record.rows if "length" in row]
    assert left == ["", "left out, by the limit of seconds"]


def test_growth_reaches_far_with_fewer_readings(tmp_path, monkeypatch):
    monkeypatch.setattr("kt_forecast.studies.growth.expected", lambda length, seen: 0.0)
    sets = ["lengths=[32,64]", 'systems=["gpt"]', "limit=1e-9"]
    record = run("growth", tmp_path, *sets)
    assert [row["repeats"] for row in record.rows if "length" in row] == [2, 2]
    assert "(2 readings)" in json.dumps([table.rows for table in record.tables])
    assert "or of fewer" in record.how[0]


def test_what_grows_faster_than_its_length_is_foreseen():
    assert expected_seconds(40, [(10, 3.0)]) == pytest.approx(12.0)
    assert expected_seconds(40, [(10, 1.0), (20, 4.0)]) == pytest.approx(16.0)
    assert expected_seconds(40, [(10, 4.0), (20, 1.0)]) == pytest.approx(2.0)


STUDY_SETS = {
    "growth": ["lengths=[16,32]", 'systems=["gpt","retnet"]', "layers=1"],
    "latency": [
        "histories=[8,16]",
        "repeats=5",
        "segment=8",
        "checked=16",
        'systems=["gpt","mamba"]',
    ],
    "reuse": ["windows=[8,16]", "segments=[4]", "rows=[1]", "checked=2"],
    "budget": ["students=24", "mean_steps=12", "epochs=1", "layers=1", 'tasks=["student"]'],
    "needle": [
        "segment=4",
        "stages=[1.0]",
        "passes=1",
        "rows=2",
        "asked=2",
        "farthest=5",
        'systems=["rmt","mamba"]',
        'tasks=["student"]',
    ],
}


@pytest.mark.parametrize("name", STUDIES)
def test_what_was_measured_outlives_what_goes_wrong(name, tmp_path):
    told = []

    def say(sentence):
        if told:
            raise KeyboardInterrupt
        told.append(sentence)

    with pytest.raises(KeyboardInterrupt):
        run_study(name, [*SMALL, *STUDY_SETS[name]], device="cpu", out=tmp_path, say=say)
    path = tmp_path / f"{name}.json"
    record = StudyRecord.from_json(path.read_text(encoding="utf-8"), name)
    assert record.unfinished == RUNNING
    assert record.rows
    assert record.command
    assert RUNNING in draw(path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_ends_when_its_seconds_are_over(name, tmp_path, monkeypatch):
    readings = iter([100.0] * {"reuse": 1, "budget": 2}.get(name, 4))
    monkeypatch.setattr(Clock, "left", lambda clock: next(readings, 0.0))
    record = run(name, tmp_path, *STUDY_SETS[name], "seconds=100")
    assert "its limit of 100 seconds" in record.unfinished
    assert record.rows
    assert "limit of 100" in (tmp_path / "out" / f"{name}.html").read_text(encoding="utf-8")


def test_a_study_with_no_second_to_spare_says_so(tmp_path):
    with pytest.raises(InputError, match="measured nothing"):
        run_study(
            "growth",
            [*SMALL, *STUDY_SETS["growth"], "seconds=1e-9"],
            device="cpu",
            out=tmp_path,
            say=str,
        )


def test_latency_weighs_states_exactly(tmp_path):
    sets = [
        "histories=[16,64]",
        "repeats=5",
        "segment=16",
        "checked=48",
        "batches=[1,3]",
        'systems=["gpt","transformer_xl","rmt","mamba"]',
        'own={"transformer_xl":{"window":4},"rmt":{"segment":4,"slots":2}}',
    ]
    record = run("latency", tmp_path, *sets)
    by = {(r["system"], r["history"], r["batch"]): r for r in record.rows if "history" in r}
    for name in ("transformer_xl", "rmt", "mamba"):
        for batch in (1, 3):
            assert by[name, 64, batch]["state_bytes"] == by[name, 16, batch]["state_bytes"]
            does = [
                (by[name, steps, batch]["operations"], by[name, steps, batch]["moved_bytes"])
                for steps in (16, 64)
            ]
            assert does[0] == does[1] > (0, 0)
        assert by[name, 16, 3]["state_bytes"] == 3 * by[name, 16, 1]["state_bytes"]
        assert by[name, 16, 1]["difference"] < 1e-4
    assert by["gpt", 64, 1]["moved_bytes"] > 1.2 * by["gpt", 16, 1]["moved_bytes"]
    assert "in 6 a step then launches as many operations" in record.answers[0]
    keys_and_values, counts = 2 * 2 * 8 * 4, 2 * 2 * 8
    assert by["gpt", 64, 1]["state_bytes"] == 64 * keys_and_values + counts
    assert by["gpt", 64, 1]["state_bytes"] > 3.5 * by["gpt", 16, 1]["state_bytes"]
    assert "attention_read" in {row["system"] for row in record.rows}


def test_a_repeated_cache_is_what_streaming_leaves_but_for_its_numbers():
    settings = LatencySettings(width=8, heads=2)
    mixer = settings.mixer("gpt").eval()
    with torch.no_grad():
        _, short = mixer(torch.randn(1, 5, 8), mixer.init_state(1))
        _, long = mixer(torch.randn(1, 12, 8), mixer.init_state(1))
        grown = repeated(short, 12)
        _, after = mixer(torch.randn(1, 1, 8), grown)
    assert cache_of(mixer.init_state(1)) is not None
    assert {k: v.shape for k, v in grown.tensors().items()} == {
        k: v.shape for k, v in long.tensors().items()
    }
    assert bytes_of(grown) == bytes_of(long)
    assert after.layers[0].length.tolist() == [13]


@pytest.mark.parametrize("layers", [1, 3])
def test_memory_equals_encoding_again(layers):
    settings = ReuseSettings(width=8, heads=2, layers=layers)
    assert equal(6, settings) < EQUAL


def test_reuse_says_what_a_cached_window_does(tmp_path):
    sets = ["windows=[8,16]", "segments=[4]", "rows=[1,2]", "checked=2"]
    record = run("reuse", tmp_path, *sets)
    for row in record.rows:
        assert row["difference"] < EQUAL
        assert row["against_again"] == pytest.approx(row["again"] / row["segments"])
        assert row["against_window"] == pytest.approx(row["window_segments"] / row["segments"])
    assert "whoever keeps" in record.answers[1]


def test_multiplications_are_those_of_the_paper():
    assert expected(3800, 1024) == pytest.approx(3074, abs=1)
    assert expected(500, 128) == pytest.approx(401, abs=1)


def test_the_papers_ratio_is_reached_where_its_count_says():
    assert [reached(64, 0), reached(128, 0)] == [3705, 7353]
    assert reached(64, 2048) == 114 * (65 + 4096) // 2


def test_counted_numbers_are_those_of_the_states():
    settings = BudgetSettings(width=16, heads=2, layers=1, segment=4)
    budget = stored(settings)
    assert held(settings, "infini_transformer", 11, segment=4) == budget["both"]
    assert held(settings, "gpt", 11) == 11 * 2 * 16
    assert held(settings, "gpt", 11, window=5) == (5 - 1) * 2 * 16


def test_budget_scores_caches_of_equal_size(tmp_path):
    sets = ["students=24", "mean_steps=12", "series=1", "days=20", "context=48", "epochs=1"]
    record = run("budget", tmp_path, *sets, "layers=1", "heads=1", "segment=4", "resamples=10")
    scored = [row for row in record.rows if not row["counted"]]
    assert [(row["task"], row["model"]) for row in scored] == [
        (task, model)
        for task in ("student", "series")
        for model in ("infini_transformer", "gpt, window 9", "gpt, window 5", "gpt")
    ]
    assert {row["metric"] for row in scored} == {"auc", "mae"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in scored)


NEEDLE = ["segment=4", "stages=[1.0,2.0]", "passes=3", "rows=2", "asked=3", "farthest=7"]


def test_needle_asks_at_every_distance_with_bounded_states(tmp_path):
    sets = [*NEEDLE, "piece=16", "patch=4", "within=5", 'systems=["gpt","transformer_xl","mamba"]']
    record = run("needle", tmp_path, *sets)
    for task, first in (("student", 8), ("series", 8)):
        for name in ("transformer_xl", "mamba"):
            rows = [r for r in record.rows if (r["task"], r["system"]) == (task, name)]
            assert [row["distance"] for row in rows] == [2**p for p in range(3, 8)][-len(rows) :]
            assert rows[0]["distance"] == first
            assert len({row["state_bytes"] for row in rows}) == 1
            assert all(row["asked"] == 3 * 4 for row in rows)
    exact = [r for r in record.rows if r["system"] == "gpt"]
    assert max(row["distance"] for row in exact) == 32


@pytest.mark.parametrize("task", [StudentTask, SeriesTask])
def test_a_stream_asks_what_one_pass_asks(task):
    settings = NeedleSettings(width=8, heads=2, segment=4, patch=4)
    task = task(settings)
    model = task.model("rmt", settings).eval()
    draw = torch.Generator().manual_seed(1)
    begin, facts = task.tell(2, draw)
    between = [task.pass_by(2, 5, 4, draw), task.pass_by(2, 9, 9, draw)]
    question, wanted = task.ask(facts, 18, draw)
    with torch.no_grad():
        whole, _ = model(task.join([begin, *between, question]))
        state = model.init_state(2)
        for part in (begin, *between, question):
            last, state = model(part, state)
    torch.testing.assert_close(last[:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)
    assert torch.equal(task.judge(last, wanted)[1], task.judge(whole, wanted)[1])


def test_what_stands_between_tells_nothing_of_the_facts():
    settings = NeedleSettings(width=8, heads=2)
    task = StudentTask(settings)
    begin, facts = task.tell(50, torch.Generator().manual_seed(1))
    between = task.pass_by(50, 40, 4, torch.Generator().manual_seed(2))
    question, wanted = task.ask(facts, 44, torch.Generator().manual_seed(3))
    assert begin.concepts.max() <= settings.facts < between.concepts.min()
    told = torch.zeros_like(facts).scatter(1, begin.concepts[..., 0] - 1, begin.response)
    assert torch.equal(told, facts)
    assert facts.sum(0).tolist() == [25] * settings.facts, "half is what a constant answer earns"
    assert torch.equal(wanted, facts.gather(1, question.concepts[..., 0] - 1))
    assert torch.equal(question.response, wanted)


def test_reminders_repeat_the_facts_and_are_what_is_judged():
    task, draw = StudentTask(NeedleSettings(rows=3)), torch.Generator().manual_seed(0)
    begin, facts = task.tell(3, draw)
    tokens, asks = task.remind(facts, 40, task.settings.facts, draw)
    concept = tokens.concepts[..., 0] - 1
    told = facts.gather(1, concept.clamp_max(task.settings.facts - 1))
    assert torch.equal(tokens.response[asks], told[asks])
    assert (concept < task.settings.facts).equal(asks)
    assert 0.3 < asks.float().mean() < 0.7
    whole = task.join([begin, tokens])
    right = torch.where(whole.response.bool(), 50.0, -50.0)
    others = torch.cat([torch.ones(3, task.settings.facts, dtype=torch.bool), ~asks], 1)
    assert task.reminded(torch.where(others, -right, right), whole, asks) < 1e-6
    assert task.reminded(-right, whole, asks) > 10.0


def test_a_needle_close_by_is_learned():
    settings = NeedleSettings(
        width=16,
        heads=2,
        layers=1,
        facts=1,
        concepts=3,
        segment=4,
        stages=(0.5,),
        passes=150,
        rows=32,
        training_seconds=60.0,
        learning_rate=1e-2,
    )
    task = StudentTask(settings)
    torch.manual_seed(0)
    assert train(task.model("gpt", settings), task, settings, Clock())["trained_share"] > 0.8


def test_a_piece_is_halved_where_memory_runs_out(monkeypatch):
    settings = NeedleSettings(width=8, heads=2, farthest=7, asked=2, piece=128)
    task = StudentTask(settings)
    model = task.model("mamba", settings).eval()
    whole = list(asked(model, task, "mamba", settings, Clock()))
    forward, lengths = type(model).forward, []

    def scarce(self, batch, state):
        lengths.append(batch.response.shape[1])
        if lengths[-1] > 20:
            raise torch.OutOfMemoryError
        return forward(self, batch, state)

    monkeypatch.setattr(type(model), "forward", scarce)
    halved = list(asked(model, task, "mamba", settings, Clock()))
    assert [row["distance"] for row in halved] == [row["distance"] for row in whole]
    assert {row["piece"] for row in whole} == {128}
    assert halved[-1]["piece"] == 16
    assert lengths.count(16) >= 6


def test_one_system_that_fails_does_not_take_the_others_along(tmp_path, monkeypatch):
    from kt_forecast.zoo.mamba import SYSTEM

    def scarce(self, *args, **kwargs):
        raise torch.OutOfMemoryError

    small = SYSTEM.config(width=8)
    mixing = type(next(m for m in SYSTEM.build(small).modules() if "Mixing" in type(m).__name__))
    monkeypatch.setattr(mixing, "forward", scarce)
    sets = [*NEEDLE, "piece=16", 'tasks=["student"]', 'systems=["mamba","rmt"]']
    record = run("needle", tmp_path, *sets)
    failed = [row for row in record.rows if row["system"] == "mamba"]
    assert [row["left_out"] for row in failed] == ["want of memory"]
    assert len([row for row in record.rows if row["system"] == "rmt"]) > 3
    assert any("mamba" in answer and "want of memory" in answer for answer in record.answers)


def test_processes_tell_what_they_found(tmp_path):
    sets = [*NEEDLE, 'systems=["rmt"]', 'tasks=["student"]', "processes=2", "piece=16"]
    record = run("needle", tmp_path, *sets, "seconds=6000")
    assert len(record.rows) > 3
    assert not record.unfinished


def test_reach_ends_where_an_interval_first_holds_chance():
    rows = [{"distance": d, "low": low} for d, low in ((8, 0.9), (16, 0.6), (32, 0.4), (64, 0.7))]
    assert reach(rows) == 16
    assert reach(rows[2:]) == 0


def test_calls_are_read_in_turn(monkeypatch):
    read, now = [], iter(range(10_000))
    monkeypatch.setattr(measuring, "READING_SECONDS", 0.0)
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: float(next(now)))
    calls = [lambda name=name: read.append(name) for name in "abc"]
    timings = interleaved(calls, "cpu", repeats=6)
    assert [timing.repeats for timing in timings] == [6, 6, 6]
    assert "".join(read[-36::2]) == "abccba" * 3


def test_exponents_intervals_and_medians():
    x = [10, 100, 1000]
    assert slope(x, [v**1.5 for v in x]) == pytest.approx(1.5)
    assert last_slope(x, [1, 1, 10]) == pytest.approx(1.0)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    calls = []
    assert timed(lambda: calls.append(0), "cpu", repeats=1, warm_up=2).repeats == 5
    assert len(calls) == 7


def test_a_ratio_is_never_an_exponent():
    told = [times(x)[:-1] for x in (0.0484, 1.4, 14.94, 731.4, 2220, 32263)]
    assert told == ["0.0484", "1.4", "14.9", "731", "2,220", "32,300"]


def test_peak_memory_is_what_was_held_at_a_time():
    def hold():
        first = torch.empty(1000, 250)
        del first
        second = torch.empty(2000, 250)
        return torch.empty(500, 250), second

    assert peak_bytes(hold, "cpu") == pytest.approx(2500 * 250 * 4, rel=0.01)


def test_what_cannot_be_run_is_refused_in_a_sentence(tmp_path):
    for name, sets, said in (
        ("grwth", [], "did you mean 'growth'"),
        ("growth", ["lenghts=[1]"], "did you mean 'lengths'"),
        ("growth", ["lengths=[8,4]"], "ascend"),
        ("growth", ["lengths"], "accepted is A=B"),
        ("growth", ['systems=["retnt"]'], "did you mean 'retnet'"),
        ("needle", ["facts=16"], "fewer facts"),
        ("budget", ['tasks=["pupil"]'], "tasks"),
    ):
        with pytest.raises(InputError, match=said):
            run_study(name, sets, device="cpu", out=tmp_path, say=str)
    assert not list(tmp_path.iterdir())
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(InputError, match="holds no study's record"):
        draw(other)


def test_sets_reach_into_settings():
    assert replaced(["own.rmt.segment=8", "width=4", "device=cpu"]) == {
        "own": {"rmt": {"segment": 8}},
        "width": 4,
        "device": "cpu",
    }


@pytest.mark.parametrize("name", STUDIES)
def test_the_large_sizes_are_accepted(name):
    study = load(name)
    assert study.settings.parse(study.full, name) != study.settings()


def test_a_page_is_drawn_again_from_the_record_alone(tmp_path):
    record = run("growth", tmp_path, "lengths=[8,16]", 'systems=["gpt"]', "layers=1")
    page = (tmp_path / "out" / "growth.html").read_text(encoding="utf-8")
    moved = tmp_path / "moved" / "growth.json"
    moved.parent.mkdir()
    moved.write_text(record.to_json(), encoding="utf-8")
    assert draw(moved).read_text(encoding="utf-8") == page


@needs_browser
def test_a_page_keeps_to_its_width_and_its_charts_fill_it(tmp_path):
    sets = ["tasks=[]", "histories=[256,1048576]", "seconds=6000"]
    run("budget", tmp_path, *sets)
    page = tmp_path / "out" / "budget.html"
    told = asked_page(
        tmp_path,
        page,
        360,
        """(page) => {
          const width = (found) => found.getBoundingClientRect().width;
          const drawing = page.querySelector("figure svg");
          return page.documentElement.scrollWidth + " "
            + width(drawing.querySelector("[id$=patch_2]")) / width(drawing); }""",
    )
    wide, share = map(float, told.split())
    assert wide <= 360
    assert share > 0.85, "a legend that is too wide leaves the lines too little"


def test_they_need_no_tracking_server():
    code = (
        "import sys, json, kt_forecast.studies.__main__\n"
        "from kt_forecast.studies.running import STUDIES, load\n"
        "[load(name) for name in STUDIES]\n"
        "heavy = ('mlflow', 'optuna', 'polars', 'pandas', 'sklearn')\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == []
