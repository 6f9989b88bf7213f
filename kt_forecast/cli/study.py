"""Studies of open questions."""

from pathlib import Path
from typing import Annotated

import typer

from kt_forecast.cli.app import RUNS, Device, Runs, Sets, app, print_table, say, show

study_app = typer.Typer(
    help="Studies of open questions, each with its own report.",
    epilog="Example: kt-forecast study pooling",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(study_app, name="study")

STUDIES = "studies"
"""Folder of what studies leave, among the runs."""

OwnSets = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="A=B",
        help="Replace a setting of the study; B as JSON writes it. Repeat it.",
    ),
]
Full = Annotated[bool, typer.Option("--full", help="Begin with the sizes that a GPU is asked for.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder of the JSON and the page; else below --runs.")
]


@study_app.command("pooling")
def study_pooling(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe of knowledge tracing; else the study's own.")
    ] = None,
    set_: Sets = [],
    runs: Runs = RUNS,
    device: Device = "auto",
) -> None:
    """Show what the pooling of Informer's distilling leaks in knowledge tracing, and what it earns.

    \b
    Example:
      kt-forecast study pooling pipelines/pooling_study.toml
    """
    from kt_forecast.experiment import Recipe, shipped
    from kt_forecast.experiment.study import pooling_study

    chosen = Recipe.read(shipped(recipe or "pooling_study")).with_sets(set_)
    show(pooling_study(chosen, runs=runs, device=device, say=say))


@study_app.command("history")
def study_history(
    run: Annotated[list[str], typer.Argument(help="Runs of knowledge tracing.", metavar="RUN...")],
    latest: Annotated[
        list[int], typer.Option("--latest", min=1, help="Steps of a short history; repeat it.")
    ] = [50, 200],
    most: Annotated[
        int, typer.Option("--most", min=1, help="Steps to score, of whole students.")
    ] = 50_000,
    json: Annotated[Path | None, typer.Option("--json", help="JSON file to write.")] = None,
    runs: Runs = RUNS,
    device: Device = "auto",
) -> None:
    """Show what runs gain from answers that lie further back than the latest ones.

    \b
    Example:
      kt-forecast study history demo --latest 20
    """
    from kt_forecast.experiment.history import history_study

    study = history_study(run, latest=latest, most=most, runs=runs, device=device, say=say)
    for title, header, rows in study.tables():
        print_table(title, header, rows)
    if json is not None:
        json.write_text(study.to_json(), encoding="utf-8")
        say(f"wrote {json}")


MEASURED = {
    "reuse": (
        "Time Transformer-XL's memory against encoding each window again, and a cached window.",
        "reuse --set 'windows=[128,512]'",
    ),
    "budget": (
        "Count what Infini-attention's memory saves, and score a cache of equal size.",
        "budget --set epochs=5",
    ),
    "needle": (
        "Ask for an answer after a long history of a student, and of a series.",
        'needle --set \'systems=["rmt","mamba"]\'',
    ),
    "latency": (
        "Time one more step, and weigh the state, after short and long histories.",
        "latency --set segment=1024",
    ),
    "growth": (
        "Time training passes, and weigh their memory, as sequences grow.",
        "growth --full --device cuda",
    ),
}
"""What each measuring study shows, and how it is called."""


def _add(name: str, shows: str, example: str) -> None:
    @study_app.command(name, help=f"{shows}\n\n\b\nExample:\n  kt-forecast study {example}")
    def measure(
        set_: OwnSets = [],
        full: Full = False,
        out: Out = None,
        runs: Runs = RUNS,
        device: Device = "auto",
    ) -> None:
        _measure(name, set_, full, out or runs / STUDIES, device)


for _name, _told in MEASURED.items():
    _add(_name, *_told)


@study_app.command("page")
def study_page(
    file: Annotated[Path, typer.Argument(help="The JSON that a study wrote, on any machine.")],
) -> None:
    """Draw the page of a study that was made elsewhere.

    \b
    Example:
      kt-forecast study page growth.json
    """
    from kt_forecast.studies import draw

    say(f"page: {draw(file).resolve().as_uri()}")


def _measure(name: str, sets: list[str], full: bool, out: Path, device: str) -> None:
    """Run a study and show what it found."""
    from kt_forecast.studies import run_study

    record = run_study(name, sets, full=full, device=device, out=out, say=say)
    for table in record.tables:
        print_table(table.title, table.header, table.rows)
    for sentence in (*record.answers, *record.how):
        say(sentence)
    say(f"page: {(out / f'{name}.html').resolve().as_uri()}")
