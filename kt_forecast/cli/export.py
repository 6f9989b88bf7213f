"""A model as files that run without this package."""

from pathlib import Path
from typing import Annotated

import typer

from kt_forecast.cli.app import RUNS, Runs, app, print_table, say


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A run, a folder of a saved model, or NAME@ALIAS.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder of the files.")],
    format: Annotated[str, typer.Option("--format", help="torch, onnx or both.")] = "both",
    form: Annotated[
        str | None,
        typer.Option(
            "--form", help="step: one answer with its state; window: a whole history; else both."
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            "--length", help="The only length of a history that the window form takes.", min=2
        ),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="ONNX files with int8 matrices too, and what they cost.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Table to tell it on; else the run's validation rows."),
    ] = None,
    override: Annotated[
        str,
        typer.Option(
            "--override", metavar="REASON", help="Export what its audit does not allow; recorded."
        ),
    ] = "",
    runs: Runs = RUNS,
) -> None:
    """Write a model as files of torch.export and ONNX, compared with it at several sizes.

    \b
    Examples:
      kt-forecast export demo --to exported
      kt-forecast export tracer@champion --to exported --format onnx --int8
    """
    from kt_forecast.exporting.run import Wanted
    from kt_forecast.exporting.run import export as write

    wanted = Wanted(
        model=model,
        to=to,
        formats=format,
        form=form,
        length=length,
        int8=int8,
        data=data,
        override=override,
        runs=runs,
    )
    for table in write(wanted, say):
        print_table(*table)
