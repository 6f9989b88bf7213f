import gzip
import hashlib
import os
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import polars as pl
import pytest
import typer

from kt_forecast.cli import app, main
from kt_forecast.data.simulate import Simulation, simulate, write

SERIES = {"--task", "--freq", "--gaps", "--stamps", "--past", "--future", "--static"}
OPTIONS = {
    "audit": {
        "target",
        "--contract",
        "--json",
        "--html",
        "--junit",
        "--strict",
        "--self-test",
        "--runs",
        "--device",
    },
    "demo": {"--runs", "--device"},
    "train": {
        "recipe",
        "--data",
        "--column",
        "--format",
        "--separator",
        "--repeats",
        *SERIES,
        "--horizon",
        "--system",
        "--set",
        "--seed",
        "--fold",
        "--coin-flip",
        "--tracking",
        "--runs",
        "--device",
    },
    "evaluate": {"name", "--protocol", "--runs", "--device"},
    "predict": {
        "name",
        "table",
        "--out",
        "--column",
        "--format",
        "--separator",
        "--repeats",
        "--runs",
        "--device",
    },
    "forecast": {
        "name",
        "table",
        "--future",
        "--level",
        "--out",
        "--column",
        "--format",
        "--freq",
        "--gaps",
        "--stamps",
        "--runs",
        "--device",
    },
    "report": {"name", "--out", "--runs"},
    "runs": {
        "run",
        "--where",
        "--metric",
        "--sort",
        "--experiment",
        "--limit",
        "--tracking",
        "--runs",
    },
    "export": {
        "model",
        "--to",
        "--format",
        "--form",
        "--length",
        "--int8",
        "--data",
        "--override",
        "--runs",
    },
    "serve": {
        "model",
        "--host",
        "--port",
        "--store",
        "--override",
        "--api-key-file",
        "--live",
        "--rate",
        "--burst",
        "--max-body",
        "--max-items",
        "--poll",
        "--separate",
        "--threads",
        "--runs",
        "--device",
    },
    "tune": {
        "recipe",
        "--trials",
        "--hours",
        "--sampler",
        "--pruner",
        "--cost",
        "--system",
        "--storage",
        "--workers",
        "--finalists",
        "--seeds",
        "--out",
        "--set",
        "--runs",
        "--device",
    },
    "promote": {"run", "--alias", "--name", "--override", "--tracking", "--runs"},
    "compare": {
        "what",
        "--system",
        "--set",
        "--workers",
        "--hours",
        "--html",
        "--json",
        "--markdown",
        "--runs",
        "--device",
    },
    "zoo": {"name", "--causality"},
    "study pooling": {"recipe", "--set", "--runs", "--device"},
    "study reuse": {"--set", "--full", "--out", "--runs", "--device"},
    "study budget": {"--set", "--full", "--out", "--runs", "--device"},
    "study needle": {"--set", "--full", "--out", "--runs", "--device"},
    "study latency": {"--set", "--full", "--out", "--runs", "--device"},
    "study growth": {"--set", "--full", "--out", "--runs", "--device"},
    "study page": {"file"},
    "study history": {"run", "--latest", "--most", "--json", "--runs", "--device"},
    "data list": set(),
    "data check": {"file", "--column", "--format", "--separator", "--repeats", *SERIES},
    "data import": {
        "file",
        "--name",
        "--column",
        "--format",
        "--separator",
        "--repeats",
        *SERIES,
        "--to",
    },
    "data fetch": {"name"},
}
HEAVY = ("torch", "mlflow", "polars", "pandas", "sklearn", "matplotlib", "pydantic", "numpy")
QUICK = [
    "--set",
    "training.epochs=1",
    "--set",
    "model.settings.width=16",
    "--set",
    "model.settings.heads=2",
    "--set",
    "evaluation.bootstraps=10",
    "--set",
    "tracking.enabled=false",
]
KT_FORECAST = Path(sys.executable).with_name("kt-forecast")
HELP_MODULES = 250


def kt_forecast(*arguments, cwd, check=True):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["KT_FORECAST_DATASETS"] = str(cwd / "datasets")
    told = subprocess.run(
        [str(KT_FORECAST), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
    )
    assert not check or told.returncode == 0, told.stderr
    return told


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Type a command that must be refused; returns the sentence."""

    def typed(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("KT_FORECAST_DATASETS", str(tmp_path / "datasets"))
        monkeypatch.setattr(sys, "argv", ["kt-forecast", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return typed


@pytest.fixture(scope="module")
def own_table(tmp_path_factory):
    """A table under its owner's own names."""
    path = tmp_path_factory.mktemp("own") / "answers.csv"
    frame = simulate(Simulation(students=24, mean_steps=10, questions=12, concepts=4))
    names = {"student": "user_id", "response": "correct"}
    write(frame, path)
    pl.read_csv(path).rename(names).write_csv(path)
    return path


MAPPED = ["--column", "student=user_id", "--column", "response=correct"]


def commands(group, before=""):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} ")
        else:
            yield f"{before}{name}", command


def test_the_options_are_those_that_were_agreed():
    found = {}
    for name, command in commands(typer.main.get_command(app)):
        words = [p.opts[0] if p.opts[0][0] == "-" else p.name for p in command.params]
        found[name] = set(words) - {"--help"}
    assert found == OPTIONS


def test_every_command_shows_a_worked_example():
    for name, command in commands(typer.main.get_command(app)):
        assert "Example" in command.help, name
        assert f"kt-forecast {name}" in command.help, name


def test_help_loads_nothing_heavy_and_little_else():
    script = (
        "import sys\nfrom kt_forecast import cli\n"
        "sys.argv = ['kt-forecast', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
        "print(len(sys.modules), file=sys.stderr)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "train" in told.stdout
    heavy, modules = told.stderr.splitlines()
    assert heavy == "[]"
    assert int(modules) < HELP_MODULES, "bench_help.py measures the seconds"


def test_two_commands_bring_a_table_of_ones_own_to_a_report(own_table, tmp_path, monkeypatch):
    told = kt_forecast("data", "import", str(own_table), "--name", "mine", *MAPPED, cwd=tmp_path)
    assert "train --data mine" in told.stdout
    told = kt_forecast("train", "--data", "mine", *QUICK, cwd=tmp_path)
    for word in ("gpt", "item_mean", "logistic", "audit verdict", "report.html"):
        assert word in told.stdout
    folder = tmp_path / "mlruns" / "runs" / "gpt-mine"
    assert (folder / "report.html").is_file()

    again = kt_forecast("train", str(folder / "recipe.toml"), cwd=tmp_path)
    row = next(line for line in told.stdout.splitlines() if "│ gpt" in line)
    assert row in again.stdout

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KT_FORECAST_DATASETS", str(tmp_path / "datasets"))
    app(["predict", "gpt-mine", str(own_table), "--out", "p.csv"], standalone_mode=False)
    predicted = pl.read_csv(tmp_path / "p.csv")
    assert predicted.height == pl.read_csv(own_table).height
    assert predicted["p_correct"].is_between(0, 1).all()
    app(["report", "gpt-mine", "--out", "page.html"], standalone_mode=False)
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("zoo",), "logistic"), (("data", "list"), "ednet"), (("data", "check"), "students")],
)
def test_the_lists_and_the_check_print_and_write_nothing(
    arguments, word, own_table, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    if arguments == ("data", "check"):
        arguments = (*arguments, str(own_table), *MAPPED)
    app(list(arguments), standalone_mode=False)
    assert word in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def bad_tables(folder):
    good = "student,question,response\na,1,1\nb,2,0\n"
    yield "missing column", folder / "one.csv", "student,question\na,1\n"
    yield "unknown response", folder / "two.csv", good + "c,1,maybe\n"
    yield "empty table", folder / "three.csv", "student,question,response\n"
    yield "no student", folder / "four.csv", good + ",1,1\n"
    yield "truncated", folder / "five.csv.gz", gzip.compress(good.encode() * 900)[:60]


@pytest.mark.parametrize("case", range(5))
def test_a_bad_table_is_refused_in_one_sentence_and_nothing_is_written(case, tmp_path, refused):
    _, path, content = list(bad_tables(tmp_path))[case]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for arguments in (
        ("data", "check", str(path)),
        ("data", "import", str(path), "--name", "mine"),
        ("train", "--data", str(path)),
    ):
        sentence = refused(*arguments)
        assert len(sentence.strip().splitlines()) == 1
        assert path.name in sentence
        assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("train",), "needs a recipe"),
        (("train", "demmo"), "did you mean 'demo'"),
        (("train", "demo", "--set", "model.sytem=gpt"), "did you mean 'system'"),
        (("train", "demo", "--set", "training.epohcs=1"), "did you mean 'epochs'"),
        (("train", "demo", "--system", "gtp"), "did you mean 'gpt'"),
        (("train", "demo", "--fold", "first"), "a whole number, or all"),
        (("train", "--data", "nothing.csv"), "nothing.csv"),
        (("train", "--data", "x.csv", "--column", "student"), "NAME=OWN"),
        (("evaluate", "nothing"), "no run is called 'nothing'"),
        (("predict", "nothing", "x.csv"), "no run is called 'nothing'"),
        (("report", "nothing"), "no run is called 'nothing'"),
        (("data", "fetch", "nothing"), "nothing"),
        (("train", "demo", "--device", "gpu"), "device 'gpu' is not here"),
        (("train", "demo_forecast", "--device", "gpu"), "device 'gpu' is not here"),
        (("train", "demo", "--horizon", "3"), "--horizon is not for knowledge_tracing"),
        (("train", "demo_forecast", "--coin-flip"), "--coin-flip is not for forecasting"),
        (("train", "demo_forecast", "--task", "knowledge_tracing"), "is a recipe of forecasting"),
        (("train", "--data", "x.csv", "--task", "forecasting"), "how many steps ahead"),
        (("train", "--data", "x.csv", "--task", "weather"), "task is 'weather'"),
        (("forecast", "nothing", "x.csv"), "no run is called 'nothing'"),
        (("train", "demo", "--no-such-option"), "No such option"),
    ],
)
def test_what_cannot_be_done_is_said_with_exit_code_2(arguments, sentence, tmp_path, refused):
    assert sentence in refused(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_refuses_ends_with_2_and_one_line(tmp_path):
    told = kt_forecast("train", "--data", "nothing.csv", cwd=tmp_path, check=False)
    assert told.returncode == 2
    assert told.stdout == ""
    assert len(told.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["a folder in the way", "a file in the way"])
def test_a_place_that_cannot_be_written_to_is_said_in_one_sentence(
    where, own_table, tmp_path, monkeypatch, refused
):
    way = tmp_path / "way"
    if where == "a file in the way":
        way.write_text("mine")
        monkeypatch.setenv("KT_FORECAST_DATA", str(tmp_path))
        sentence = refused("train", "--data", str(own_table), *MAPPED, "--runs", str(way))
        assert way.read_text() == "mine"
    else:
        monkeypatch.setattr(
            "kt_forecast.experiment.report", lambda *_, out, runs: out.write_text(str(runs))
        )
        way.mkdir()
        sentence = refused("report", "any", "--out", str(way))
    assert str(way) in sentence
    assert "accepted" in sentence
    assert len(sentence.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["way"]


def test_a_set_that_a_person_must_fetch_is_said_in_one_sentence(tmp_path):
    home = tmp_path / "datasets" / "mine"
    home.mkdir(parents=True)
    (home / "card.toml").write_text(
        'title = "Mine"\ndescription = "d"\ntask = "knowledge_tracing"\nlicence = "CC0"\n'
        'citation = "Me (2020)"\nobtain = "write to me"\n'
    )
    told = kt_forecast("data", "fetch", "mine", cwd=tmp_path, check=False)
    assert told.returncode == 2
    assert told.stdout == ""
    assert len(told.stderr.splitlines()) == 1
    assert "write to me" in told.stderr


def test_a_fetched_set_shows_checksum_licence_and_citation(tmp_path):
    kept = tmp_path / "owner" / "answers.csv"
    kept.parent.mkdir()
    kept.write_text("student,question,response\n1,2,1\n")
    home = tmp_path / "datasets" / "mine"
    home.mkdir(parents=True)
    handler = partial(SimpleHTTPRequestHandler, directory=kept.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        (home / "card.toml").write_text(
            'title = "Mine"\ndescription = "d"\ntask = "knowledge_tracing"\nlicence = "CC0"\n'
            'citation = "Me (2020)"\npath = "raw/answers.csv"\n[[files]]\nname = "answers.csv"\n'
            f'url = "http://127.0.0.1:{server.server_port}/answers.csv"\n'
        )
        told = kt_forecast("data", "fetch", "mine", cwd=tmp_path)
        server.shutdown()
    assert (home / "raw" / "answers.csv").read_bytes() == kept.read_bytes()
    digest = hashlib.sha256(kept.read_bytes()).hexdigest()
    for part in (digest, "unverified", "licence: CC0", "cite: Me (2020)"):
        assert part in told.stdout
    assert "answers.csv" in told.stderr, "the progress is shown"


def test_looking_at_a_table_loads_no_torch(own_table, tmp_path):
    script = (
        "import sys\nfrom kt_forecast.cli import app\n"
        f"app(['data', 'check', {str(own_table)!r}, *{MAPPED!r}], standalone_mode=False)\n"
        "print('torch' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert told.stdout.splitlines()[-1] == "False"
