"""Tables: what is there, what is wrong with one, how one comes in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kt_forecast.cli.app import (
    FORECASTING,
    Columns,
    Format,
    Freq,
    Gaps,
    Known,
    Past,
    Repeats,
    Separator,
    Stamps,
    Static,
    Task,
    app,
    print_table,
    say,
    table_settings,
    task_of_table,
)

if TYPE_CHECKING:
    from rich.progress import TaskID


data_app = typer.Typer(
    help="Tables: what is there, what is wrong with one, how one comes in.",
    epilog="Example: kt-forecast data check answers.csv --column student=user_id",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")


@data_app.command("list")
def data_list() -> None:
    """List the data sets that have a card, and the formats that can be read.

    \b
    Example:
      kt-forecast data list
    """
    from kt_forecast.experiment import tables

    print_table("Data sets", tables.DATA_SETS, tables.data_sets())
    print_table("Formats", ("format", "what it is"), tables.formats())


@data_app.command("check")
def data_check(
    file: Annotated[Path, typer.Argument(help="Table of interactions, or of series.")],
    column: Columns = [],
    format: Format = "auto",
    separator: Separator = None,
    repeats: Repeats = "auto",
    task: Task = None,
    freq: Freq = None,
    gaps: Gaps = None,
    stamps: Stamps = None,
    past: Past = [],
    future: Known = [],
    static: Static = [],
) -> None:
    """Read a table through the door and say what was found; exit code 2 where it is refused.

    \b
    Examples:
      kt-forecast data check answers.csv --column student=user_id --separator ";"
      kt-forecast data check sales.csv --column unique_id=shop --column ds=day --gaps mask
    """
    from kt_forecast.experiment import tables
    from kt_forecast.experiment.which import parse_data

    settings = table_settings(
        str(file),
        column,
        format=format,
        separator=separator,
        repeats=repeats,
        freq=freq,
        gaps=gaps,
        stamps=stamps,
        past=past,
        future=future,
        static=static,
    )
    found = tables.checked(parse_data(settings, task_of_table(settings, task), "data check"))
    print_table(found.name, ("what", "found"), found.summary)
    for note in found.notes:
        say(f"note: {note}")


@data_app.command("import")
def data_import(
    file: Annotated[Path, typer.Argument(help="Table of interactions, or of series.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the data set; else the file's.")
    ] = None,
    column: Columns = [],
    format: Format = "auto",
    separator: Separator = None,
    repeats: Repeats = "auto",
    task: Task = None,
    freq: Freq = None,
    gaps: Gaps = None,
    stamps: Stamps = None,
    past: Past = [],
    future: Known = [],
    static: Static = [],
    to: Annotated[Path | None, typer.Option("--to", help="Folder of data sets.")] = None,
) -> None:
    """Check a table and keep it as a data set, to be named by train --data from then on.

    \b
    Examples:
      kt-forecast data import answers.csv --name mine --column student=user_id
      kt-forecast train --data mine
      kt-forecast data import sales.csv --name sales --column unique_id=shop --column ds=day
      kt-forecast train --data sales --horizon 28
    """
    from kt_forecast.experiment import tables
    from kt_forecast.experiment.which import parse_data

    settings = table_settings(
        str(file),
        column,
        format=format,
        separator=separator,
        repeats=repeats,
        freq=freq,
        gaps=gaps,
        stamps=stamps,
        past=past,
        future=future,
        static=static,
    )
    kind = task_of_table(settings, task)
    chosen = parse_data(settings, kind, "data import")
    card = tables.keep(chosen, name or file.name.split(".")[0], to)
    ahead = " --horizon STEPS" if kind == FORECASTING else ""
    say(f"wrote {card}; train on it with: kt-forecast train --data {card.parent.name}{ahead}")


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Name of a data set; data list shows them.")],
) -> None:
    """Download a data set from the address on its card: checksum, resume, licence, citation.

    \b
    Example:
      kt-forecast data fetch ednet
    """
    from kt_forecast.experiment import tables

    with _transfer() as progress:
        sentences = tables.fetch(name, progress)
    for sentence in sentences:
        say(sentence)


@contextmanager
def _transfer() -> Iterator[Callable[[str, int, int | None], None]]:
    """Give a function that draws a bar for each file that is transferred."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    bar = Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def draw(name: str, done: int, total: int | None) -> None:
        bar.start()
        if name not in tasks:
            tasks[name] = bar.add_task(name)
        bar.update(tasks[name], completed=done, total=total)

    try:
        yield draw
    finally:
        if tasks:
            bar.stop()
