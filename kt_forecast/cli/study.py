"""Studies of open questions."""

from typing import Annotated

import typer

from kt_forecast.cli.app import RUNS, Device, Runs, Sets, app, say, show

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
