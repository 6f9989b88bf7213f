"""What every command shares: the application, options, and what is said and shown.

Only typer is imported at the top; what a command needs is imported when it runs, so that
``--help`` answers at once.
"""

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kt_forecast.errors import InputError

if TYPE_CHECKING:
    from kt_forecast.experiment.stored import ForecastRun, Run
    from kt_forecast.experiment.study import StudyRun

app = typer.Typer(
    name="kt-forecast",
    help="From a table of answers, or of series, to an audited, reported prediction.",
    epilog="Example: kt-forecast demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RUNS = Path("mlruns")
BAD_INPUT = 2
FORECASTING = "forecasting"

Columns = Annotated[
    list[str],
    typer.Option(
        "--column",
        metavar="NAME=OWN",
        help="Our name of a column and the table's own: student=user_id, ds=date; repeat it.",
    ),
]
Format = Annotated[str, typer.Option("--format", help="Format of the file; auto looks at it.")]
Separator = Annotated[
    str | None, typer.Option("--separator", help="What joins several concepts in one text value.")
]
Repeats = Annotated[
    str,
    typer.Option(
        "--repeats",
        help="Rows that repeat the question before: auto decides or refuses; merge; keep.",
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="knowledge_tracing or forecasting; else the data set's card or the columns decide.",
    ),
]
Freq = Annotated[
    str | None,
    typer.Option("--freq", help="Step between the stamps of series, e.g. 1h, 1d, 1mo; else found."),
]
Gaps = Annotated[
    str | None,
    typer.Option("--gaps", help="Missing values inside series: refuse, mask, or ffill."),
]
Stamps = Annotated[
    str | None,
    typer.Option("--stamps", help="dates, or order: rows are equally spaced whatever they say."),
]
Past = Annotated[
    list[str],
    typer.Option("--past", metavar="COLUMN", help="A covariate known up to the origin; repeat it."),
]
Known = Annotated[
    list[str],
    typer.Option("--future", metavar="COLUMN", help="A covariate known in advance; repeat it."),
]
Static = Annotated[
    list[str],
    typer.Option("--static", metavar="COLUMN", help="A fact of each series; repeat it."),
]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of the runs.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Sets = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="A.B=C",
        help="Replace a key of the recipe, e.g. training.epochs=3; repeat it.",
    ),
]
Tracking = Annotated[
    str | None,
    typer.Option(
        "--tracking",
        metavar="URL",
        help="MLflow's tracking server; else MLFLOW_TRACKING_URI, else SQLite in --runs.",
    ),
]
RunName = Annotated[
    str, typer.Argument(help="Name of a run, its folder, or NAME@ALIAS.", metavar="RUN")
]


UNUSABLE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""What a user can mend by naming another file or folder, or by making room."""


def main() -> None:
    """Run the command; bad input ends it with one sentence and exit code 2.

    Raises:
        OSError: the machine failed in a way that no other name of a file would mend.
    """
    # Threads that spin while they wait for each other starve on a machine that has other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except InputError as error:
        _end(str(error))
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        _end(
            f"{error.filename2 or error.filename or 'a file'}: {error.strerror}; accepted is a"
            " place that can be written to, with room left"
        )


def _end(sentence: str) -> None:
    sys.stderr.write(" ".join(sentence.split()) + "\n")
    sys.exit(BAD_INPUT)


def task_of_table(table: dict[str, Any], task: str | None) -> str:
    """Return the task of a table, and say so where its columns decided."""
    from kt_forecast.experiment.which import task_of

    if task is not None:
        return task
    found, reason = task_of(table)
    if reason:
        say(reason)
    return found


def refuse_other_task(task: str, **options: object) -> None:
    """Refuse options that are for the other task.

    Raises:
        InputError: one was given.
    """
    other = ("horizon",) if task != FORECASTING else ("fold", "coin_flip")
    for name in other:
        if options.get(name) is not None:
            raise InputError(
                f"--{name.replace('_', '-')} is not for {task}; accepted is a recipe or a table of"
                " the other task"
            )


def table_settings(
    source: str | None, columns: list[str], **options: str | list[str] | None
) -> dict[str, Any]:
    """Return the keys of a recipe's [data] that the options name."""
    settings: dict[str, Any] = {}
    if source is not None:
        settings["source"] = source
    if columns:
        settings["columns"] = dict(_pair(text) for text in columns)
    return settings | {
        key: value for key, value in options.items() if value not in (None, "auto", [])
    }


def _pair(text: str) -> tuple[str, str]:
    name, equals, own = text.partition("=")
    if not (name and equals and own):
        raise InputError(f"--column {text!r}: accepted is NAME=OWN, as in student=user_id")
    return name, own


def track_at(url: str | None) -> None:
    """Record and look up at a tracking server for the rest of this process, where one is named."""
    if url is not None:
        os.environ["MLFLOW_TRACKING_URI"] = url


def say(sentence: str) -> None:
    """Print one sentence at once."""
    print(sentence, flush=True)


def show(run: "Run | ForecastRun | StudyRun | None") -> None:
    """Print the tables and the closing lines of a run; nothing where another process has it."""
    if run is None:
        return
    for title, header, rows in run.tables():
        print_table(title, header, rows)
    for line in run.closing():
        say(line)


def print_table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table; outside a terminal at a fixed width."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(header):
        table.add_column(name, overflow="fold", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120, markup=False).print(table)
