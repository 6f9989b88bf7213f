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
