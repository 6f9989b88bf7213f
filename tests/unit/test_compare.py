"""Systems on the same test rows: ranked, paired, and the unfair ones left out of the choice."""

import json
import math
from dataclasses import replace

import pytest

from kt_forecast.data.series.simulate import SeriesSimulation
from kt_forecast.data.series.simulate import simulate as simulate_series
from kt_forecast.data.simulate import Simulation, simulate, write
from kt_forecast.errors import InputError
from kt_forecast.experiment import ForecastRecipe, Recipe, find, run
from kt_forecast.experiment.board import Board
from kt_forecast.experiment.board_rows import Difference, Failure, Group, Interval, Row
from kt_forecast.experiment.compare import compare
from kt_forecast.experiment.stored import RECORD, RUNS, TEST_READS
from kt_forecast.report import Verdict

QUIET = {"tracking": {"enabled": False}}
STUDENTS = {
    "model": {"system": "gpt", "settings": {"width": 8, "heads": 1}},
    "training": {"epochs": 1, "steps_per_batch": 256},
    "evaluation": {"protocols": ["full"], "bootstraps": 40},
    **QUIET,
}
SERIES = {
    "task": "forecasting",
    "split": {"kind": "share"},
    "model": {"system": "ridge"},
    "forecasting": {"horizon": 6, "context": 24},
    "evaluation": {"bootstraps": 40, "levels": []},
    **QUIET,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of two tracers on one table, and a recipe of a forecaster."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        for flow in ("flow", "forecasting"):
            patch.setattr(f"kt_forecast.experiment.{flow}.audited", audited_as_proved)
        write(
            simulate(Simulation(students=40, mean_steps=14, questions=15, concepts=4)),
            folder / "a.csv.gz",
        )
        simulate_series(SeriesSimulation(series=2, days=16)).write_csv(folder / "s.csv")
        runs = folder / "mlruns"
        for name, system in (("attends", "gpt"), ("recurs", "dkt")):
            plain = STUDENTS | {"name": name, "data": {"source": str(folder / "a.csv.gz")}}
            if system != "gpt":
                plain = plain | {"model": {"system": system}}
            run(Recipe.parse(plain, "test"), runs=runs, device="cpu", say=lambda _: None)
        series = SERIES | {"name": "ahead", "data": {"source": str(folder / "s.csv")}}
        (folder / "ahead.toml").write_text(ForecastRecipe.parse(series, "test").to_toml())
        board = compared(["attends", "recurs", str(folder / "ahead.toml")], runs)
        yield folder, runs, board


def audited_as_proved(*_):
    from kt_forecast.audit import Report

    return Report("proved", scope={})


def compared(names, runs):
    from kt_forecast.experiment.compare import compare as compare_all

    return compare_all(names, runs=runs, device="cpu", say=lambda _: None)


def test_systems_of_a_data_set_stand_in_one_table(made):
    _, _, board = made
    students, series = board.groups
    assert {row.system for row in students.rows} == {"attends", "recurs", "item_mean", "logistic"}
    assert {row.system for row in series.rows} == {"ahead", "seasonal_naive"}
    assert (students.metric, students.lower) == ("auc", False)
    assert (series.metric, series.lower) == ("mse", True)
    for group, sign in ((students, -1), (series, 1)):
        values = [sign * row.score.value for row in group.rows]
        assert values == sorted(values)
        assert group.best == group.rows[0].system
        assert group.rows[0].gap is None
    for row in students.rows:
        assert row.score.low < row.score.value < row.score.high
        assert row.latency > 0
    attends = next(row for row in students.rows if row.system == "attends")
    assert attends.parameters > 0
    assert attends.seconds > 0
    assert "MiB" in attends.memory
    assert (attends.causality, attends.verdict) == ("step", "proved")


def test_differences_are_paired_on_the_same_rows(made):
    _, _, board = made
    students = board.groups[0]
    best = students.rows[0]
    for row in students.rows[1:]:
        assert row.gap.value == pytest.approx(row.score.value - best.score.value)
        assert row.gap.low <= row.gap.value <= row.gap.high
        assert (row.gap.p < 0.05) == (row.gap.low > 0 or row.gap.high < 0)
        unpaired = math.hypot(row.score.high - row.score.low, best.score.high - best.score.low)
        assert row.gap.high - row.gap.low < 1.5 * unpaired


def test_every_comparison_is_noted_as_a_reading(made):
    _, runs, _ = made
    reads = json.loads((runs / RUNS / "attends" / TEST_READS).read_text())
    assert [read["why"] for read in reads][:2] == ["train", "evaluate"]


def test_a_recipe_that_has_a_run_is_not_trained_again(made):
    folder, runs, _ = made
    before = {path.name for path in (runs / RUNS).iterdir()}
    compared([str(folder / "ahead.toml")], runs)
    assert {path.name for path in (runs / RUNS).iterdir()} == before
    assert "ahead" in before


def test_what_leaks_is_marked_and_chosen_by_nobody(made):
    _, runs, board = made
    name = next(row.system for row in board.groups[0].rows if row.verdict)
    path = find(name, runs).folder / RECORD
    kept = path.read_text()
    record = replace(find(name, runs).record, verdict=Verdict(verdict="leak"))
    path.write_text(record.to_json())
    try:
        group = compared([name], runs).groups[0]
    finally:
        path.write_text(kept)
    row = next(row for row in group.rows if row.system == name)
    assert row.marks == ("LEAKS",)
    assert group.best != name


def test_windows_beside_whole_histories_are_marked(made):
    from kt_forecast.experiment.scoring import _marks
    from kt_forecast.tracer import plan

    _, runs, _ = made
    found, part = find("attends", runs), plan("gpt").part
    assert _marks(found, part, None) == ()
    assert _marks(found, part, 50) == ("window only",)
    reads_all = replace(part, promises=replace(part.promises, causality="window"))
    assert _marks(found, reads_all, None) == ("window only",)


def test_what_is_neither_run_nor_recipe_is_refused(made):
    _, runs, _ = made
    with pytest.raises(InputError, match="nor is there a recipe"):
        compared(["nobody"], runs)


def test_a_recipe_that_is_asked_of_a_system_is_trained_once(made):
    folder, runs, _ = made
    heard = []
    from kt_forecast.experiment.compare import compare as compare_all

    asked = {"systems": ["ridge"], "runs": runs, "device": "cpu", "say": heard.append}
    board = compare_all([str(folder / "ahead.toml")], **asked)
    assert {row.label for row in board.groups[0].rows} == {"ridge", "seasonal_naive"}
    assert not [line for line in heard if "trained" in line], "its run is here"
    with pytest.raises(InputError, match=r"nothing is left .*ridge is not for students"):
        compare_all(["demo"], **asked)
    with pytest.raises(InputError, match="did you mean 'ridge'"):
        compare_all(["demo"], **(asked | {"systems": ["rigde"]}))
    with pytest.raises(InputError, match="--system and --set need a recipe"):
        compare_all(["attends"], **asked)
    with pytest.raises(InputError, match="--system names ridge"):
        compare_all([str(folder / "ahead.toml")], **asked, sets=["model.system=gpt"])


def rowed(system, value, *, p=None, marks=()):
    gap = None if p is None else Difference(0.1, 0.0, 0.2, p)
    return Row(
        system=f"run-of-{system}",
        what=system,
        score=Interval(value, value, value),
        parameters=None,
        seconds=None,
        latency=1.0,
        memory="",
        causality="step",
        verdict="proved",
        marks=marks,
        gap=gap,
        label=system,
    )


def test_standings_rank_the_fair_and_complete_first():
    first = Group(
        "one",
        "auc",
        False,
        "run-of-leaky",
        (
            rowed("leaky", 0.9, marks=("LEAKS",)),
            rowed("a", 0.8),
            rowed("a", 0.7, p=0.5),
            rowed("b", 0.74, p=0.01),
            rowed("alone", 0.73, p=0.3),
        ),
        "set one",
    )
    second = Group("two", "auc", False, "run-of-b", (rowed("b", 0.6), rowed("a", 0.5, p=0.2)), "x")
    board = Board((first, second), (Failure("lost", "demo", "it broke"),))
    found = {one.system: one for one in board.standings()}
    assert [*found] == ["a", "b", "alone", "leaky"]
    assert found["leaky"].cells[0].rank is None
    assert (found["a"].rank, found["b"].rank) == (1.5, 1.5)
    assert found["a"].cells[0].value == pytest.approx(0.75)
    assert found["a"].means == {"auc": pytest.approx(0.625)}
    assert found["alone"].means == {}
    title, header, rows = board.tables()[0]
    assert "All data sets" in title
    assert header == ("system", "mean rank", "mean AUC", "set one AUC", "x AUC")
    assert rows[0] == ("a", "1.50", "0.6250", "0.7500 (1)", "0.5000 (2=)")
    assert rows[2] == ("alone", "3.00", "-", "0.7300 (3=)", "-")
    assert rows[3][0] == "leaky LEAKS"
    assert "lost is missing, demo: it broke" in list(board.notes())
    assert "it broke" in board.to_html()
    assert "\n| a | 1.50 | 0.6250 | 0.7500 (1) | 0.5000 (2=) |\n" in board.to_markdown()
    assert "- lost is missing, demo: it broke\n" in board.to_markdown()
    assert Board((first,)).standings() == ()
    assert len(Board((first,)).tables()) == 1
    errors = Group("e", "mse", True, "run-of-b", (rowed("b", 0.1), rowed("a", 0.2, p=0.9)), "y")
    lower = {one.system: one for one in Board((first, errors)).standings()}
    assert [lower["b"].cells[1].rank, lower["a"].cells[1].rank] == [1, 2]
    assert lower["b"].means == {"auc": 0.74, "mse": 0.1}


def test_boards_that_were_written_are_put_on_one(made, tmp_path):
    _, runs, board = made
    for i, group in enumerate(board.groups):
        (tmp_path / f"{i}.json").write_text(replace(board, groups=(group,)).to_json())
    paths = [str(tmp_path / f"{i}.json") for i in range(len(board.groups))]
    again = compared(paths, runs)
    assert again.to_json() == board.to_json()
    assert len(again.standings()) > 0
    with pytest.raises(InputError, match="other boards only"):
        compared([paths[0], "attends"], runs)
    with pytest.raises(InputError, match="no such file"):
        compared([str(tmp_path / "no.json")], runs)
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(InputError, match="no board can be read from it"):
        compared([str(tmp_path / "no.json")], runs)


def test_systems_that_several_boards_hold_are_ranked_on_the_same_rows(made, tmp_path):
    _, runs, board = made
    group = board.groups[0]

    def written(name, rows, **other):
        path = tmp_path / f"{name}.json"
        part = replace(group, rows=tuple(rows), best=rows[0].system, **other)
        lost = Failure(rows[-1].what, rows[-1].system, "it broke")
        path.write_text(replace(board, groups=(part,), failed=(lost,)).to_json())
        return str(path)

    first, second, *rest = (replace(row, gap=None) for row in group.rows)
    early = replace(first, score=replace(first.score, value=0.0), early="1 of 2 epochs")
    one = written("one", [second, early])
    other = written("other", [*rest, first])
    again = compared([one, other], runs)
    assert again.groups == (group,)
    assert again.failed == ()
    undrawn = compared([one, written("undrawn", [replace(first, draws=())])], runs).groups[0]
    gap = undrawn.rows[1].gap
    assert gap.value == second.score.value - first.score.value
    assert math.isnan(gap.low)
    for key in ((), ("others",)):
        with pytest.raises(InputError, match="not surely with the same rows"):
            compared([one, written("apart", rest, key=key)], runs)
    alone = written("alone", group.rows, key=())
    assert compared([alone], runs).groups == (replace(group, key=()),), "left as it is"


def test_a_page_that_cannot_be_written_is_said_in_a_sentence(made, tmp_path):
    _, _, board = made
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"page\.md cannot be written"):
        board.write(tmp_path / "p.html", markdown=tmp_path / "file" / "page.md")
    with pytest.raises(InputError, match="cannot be written"):
        board.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "p.html"}


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan")])
def test_no_time_at_all_is_refused_before_anything_is_written(tmp_path, hours):
    with pytest.raises(InputError, match="accepted are numbers above 0"):
        compare(["demo"], runs=tmp_path / "mlruns", systems=["gpt"], hours=hours)
    assert [*tmp_path.iterdir()] == []
