"""The studies of memory, at toy size: what is deterministic is held, the rest must come out."""

import json
import subprocess
import sys

import pytest
import torch

from kt_forecast.errors import InputError
from kt_forecast.studies import STUDIES, draw, run_study
from kt_forecast.studies.budget import BudgetSettings, held, reached, stored
from kt_forecast.studies.latency import LatencySettings, cache_of, repeated
from kt_forecast.studies.measuring import last_slope, peak_bytes, slope, timed, wilson
from kt_forecast.studies.needle import NeedleSettings, SeriesTask, StudentTask, reach, train
from kt_forecast.studies.record import StudyRecord
from kt_forecast.studies.reuse import EQUAL, ReuseSettings, equal, expected
from kt_forecast.studies.running import load, replaced
from kt_forecast.studies.systems import bytes_of

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


def test_growth_leaves_out_what_would_take_too_long(tmp_path):
    sets = ["lengths=[32,64,128]", 'systems=["gpt"]', "limit=1e-9"]
    record = run("growth", tmp_path, *sets)
    left = [row["left_out"] for row in record.rows if "length" in row]
    assert left == ["", "left out, by the limit of seconds"]


def test_latency_weighs_states_exactly(tmp_path):
    sets = [
        "histories=[16,64]",
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
        assert by[name, 16, 3]["state_bytes"] == 3 * by[name, 16, 1]["state_bytes"]
        assert by[name, 16, 1]["difference"] < 1e-4
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
        seconds=60.0,
        learning_rate=1e-2,
    )
    task = StudentTask(settings)
    torch.manual_seed(0)
    assert train(task.model("gpt", settings), task, settings)["trained_share"] > 0.8


def test_reach_ends_where_an_interval_first_holds_chance():
    rows = [{"distance": d, "low": low} for d, low in ((8, 0.9), (16, 0.6), (32, 0.4), (64, 0.7))]
    assert reach(rows) == 16
    assert reach(rows[2:]) == 0


def test_exponents_intervals_and_medians():
    x = [10, 100, 1000]
    assert slope(x, [v**1.5 for v in x]) == pytest.approx(1.5)
    assert last_slope(x, [1, 1, 10]) == pytest.approx(1.0)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    calls = []
    assert timed(lambda: calls.append(0), "cpu", repeats=1, warm_up=2).repeats == 5
    assert len(calls) == 7


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
