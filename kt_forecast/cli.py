"""The command ``kt-forecast``: parses, calls, prints; nothing else parses arguments.

Only typer is imported at the top; what a command needs is imported when it runs, so that
``--help`` answers at once.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kt_forecast.errors import InputError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from kt_forecast.experiment.stored import ForecastRun, Run
    from kt_forecast.experiment.study import StudyRun
    from kt_forecast.experiment.which import AnyRecipe

app = typer.Typer(
    name="kt-forecast",
    help="From a table of answers, or of series, to an audited, reported prediction.",
    epilog="Example: kt-forecast demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(
    help="Tables: what is there, what is wrong with one, how one comes in.",
    epilog="Example: kt-forecast data check answers.csv --column student=user_id",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
study_app = typer.Typer(
    help="Studies of open questions, each with its own report.",
    epilog="Example: kt-forecast study pooling",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(study_app, name="study")

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
RunName = Annotated[str, typer.Argument(help="Name of a run, or its folder.", metavar="RUN")]


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


@app.command()
def demo(runs: Runs = RUNS, device: Device = "auto") -> None:
    """Trace simulated students, then forecast simulated series: a GPT beside baselines, audited.

    \b
    Example:
      kt-forecast demo
    """
    from kt_forecast.experiment import run, shipped
    from kt_forecast.experiment.which import read_recipe

    for name in ("demo", "demo_forecast"):
        _show(run(read_recipe(shipped(name)), runs=runs, device=device, say=_say))


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe (TOML file), or the name of one in pipelines/.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Table or data-set name, in the recipe's place.")
    ] = None,
    column: Columns = [],
    format: Format = "auto",
    separator: Separator = None,
    repeats: Repeats = "auto",
    task: Task = None,
    horizon: Annotated[
        int | None, typer.Option("--horizon", help="Steps ahead that series are forecast.")
    ] = None,
    freq: Freq = None,
    gaps: Gaps = None,
    stamps: Stamps = None,
    past: Past = [],
    future: Known = [],
    static: Static = [],
    system: Annotated[
        str | None, typer.Option("--system", help="What to train; kt-forecast zoo lists them.")
    ] = None,
    set_: Sets = [],
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of splits and training.")] = None,
    fold: Annotated[
        str | None, typer.Option("--fold", help="A published fold, or all of them: mean and sd.")
    ] = None,
    coin_flip: Annotated[
        bool,
        typer.Option("--coin-flip", help="Replace responses by fair coins: AUC must be a half."),
    ] = False,
    runs: Runs = RUNS,
    device: Device = "auto",
) -> None:
    """Train what a recipe describes, test it once beside baselines, audit it, report it.

    A run that was interrupted goes on where it stopped when the same command is typed again.

    \b
    Examples:
      kt-forecast train pipelines/demo.toml --set training.epochs=3
      kt-forecast train --data answers.csv --column student=user_id --column response=correct
      kt-forecast train --data sales.csv --column unique_id=shop --column ds=day --horizon 28
      kt-forecast train pipelines/ltsf_ridge.toml --data etth1
      kt-forecast train pipelines/assist2009_gpt.toml --fold all
      kt-forecast train pipelines/demo.toml --coin-flip
    """
    from kt_forecast.experiment import run

    table = _table_settings(
        data,
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
    chosen = _recipe(recipe, table, system, task, horizon).with_sets(set_)
    changes: dict[str, Any] = {}
    if seed is not None:
        changes["seed"] = seed
    if fold == "all":
        changes |= {"folds": "all", "split": {"kind": "folds"}}
    elif fold is not None:
        changes["split"] = {"kind": "folds", "fold": _number(fold, "--fold")}
    if coin_flip:
        changes["coin_flip"] = True
    _refuse_other_task(chosen.task, fold=fold, coin_flip=coin_flip or None)
    if seed is not None and chosen.task == FORECASTING:
        changes["seeds"] = ()
    _show(run(chosen.changed(changes, "the command line"), runs=runs, device=device, say=_say))


@app.command()
def evaluate(
    name: RunName,
    protocol: Annotated[
        list[str],
        typer.Option(
            "--protocol",
            help="pykt, full, stream or cold_start; of series ltsf or rolling; repeat it.",
        ),
    ] = [],
    runs: Runs = RUNS,
    device: Device = "auto",
) -> None:
    """Score a stored run on its own test rows again, beside the baselines.

    \b
    Examples:
      kt-forecast evaluate demo --protocol pykt --protocol cold_start
      kt-forecast evaluate demo_forecast --protocol rolling
    """
    from kt_forecast.experiment import evaluate as score

    _show(score(name, protocols=tuple(protocol), runs=runs, device=device, say=_say))


@app.command()
def predict(
    name: RunName,
    table: Annotated[Path, typer.Argument(help="Table of interactions.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write; .csv or .parquet.")] = (
        None
    ),
    column: Columns = [],
    format: Format = "auto",
    separator: Separator = None,
    repeats: Repeats = "auto",
    runs: Runs = RUNS,
    device: Device = "auto",
) -> None:
    """Predict every row of a table from the rows before it; adds the column p_correct.

    \b
    Example:
      kt-forecast predict demo answers.csv --out predictions.csv
    """
    from kt_forecast.experiment import predict as predicted

    settings = _table_settings(
        str(table), column, format=format, separator=separator, repeats=repeats
    )
    place = predicted(name, settings, out=out, runs=runs, device=device)
    _say(f"wrote {place}")


@app.command()
def forecast(
    name: RunName,
    table: Annotated[Path, typer.Argument(help="Table of series, up to the last known values.")],
    future: Annotated[
        Path | None,
        typer.Option("--future", help="Table of the covariates known in advance, ahead of those."),
    ] = None,
    level: Annotated[
        list[int], typer.Option("--level", help="Percent that an interval shall hold; repeat it.")
    ] = [90],
    out: Annotated[Path | None, typer.Option("--out", help="File to write; .csv or .parquet.")] = (
        None
    ),
    column: Columns = [],
    format: Format = "auto",
    freq: Freq = None,
    gaps: Gaps = None,
    stamps: Stamps = None,
    runs: Runs = RUNS,
    device: Device = "auto",
) -> None:
    """Forecast what comes after each series of a table: unique_id, ds, the value, its interval.

    \b
    Example:
      kt-forecast forecast demo_forecast demand.csv --level 90 --out ahead.csv
    """
    from kt_forecast.experiment import forecast as ahead

    settings = _table_settings(
        str(table), column, format=format, freq=freq, gaps=gaps, stamps=stamps
    )
    place = ahead(
        name, settings, future=future, levels=tuple(level), out=out, runs=runs, device=device
    )
    _say(f"wrote {place}")


@app.command()
def report(
    name: RunName,
    out: Annotated[Path | None, typer.Option("--out", help="HTML file to write.")] = None,
    runs: Runs = RUNS,
) -> None:
    """Write the HTML report of a stored run again.

    \b
    Example:
      kt-forecast report demo --out demo.html
    """
    from kt_forecast.experiment import report as written

    _say(f"report: {written(name, out=out, runs=runs)}")


@app.command()
def audit(
    target: Annotated[
        str | None, typer.Argument(help="FILE.py:build; build() returns model and batch.")
    ] = None,
    contract: Annotated[
        str,
        typer.Option(
            "--contract",
            help="causal, strict, kt or rows_independent; build() may return another one.",
        ),
    ] = "causal",
    json: Annotated[Path | None, typer.Option("--json", help="JSON file to write.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="HTML file to write.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="JUnit file to write.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail (1) unless proved without conditions.")
    ] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Audit the catalogue of planted leaks.")
    ] = False,
) -> None:
    """Prove that a model does not use the future, or show where: 0 proved, 1 leak, 3 unproven.

    \b
    Examples:
      kt-forecast audit model.py:build --contract causal --html audit.html
      kt-forecast audit --self-test

    \f

    Raises:
        InputError: the file cannot be used.
        Exit: always, with the verdict's code.
    """
    from kt_forecast.audit import ContractError
    from kt_forecast.audit import command as auditor

    try:
        if self_test:
            header, *rows = auditor.self_test()
            return _print_table("Planted leaks and honest models", header, rows)
        if target is None:
            raise InputError("audit: accepted is FILE.py:FUNCTION, or --self-test")
        report = auditor.audit_file(target, contract)
    except ContractError as error:
        raise InputError(str(error)) from None
    _say(report.text())
    for place, text in ((json, report.to_json), (html, report.to_html), (junit, report.to_junit)):
        if place is not None:
            place.write_text(text(), encoding="utf-8")
            _say(f"wrote {place}")
    raise typer.Exit(auditor.exit_code(report, strictly=strict))


@app.command()
def zoo(
    name: Annotated[str | None, typer.Argument(help="One of them, to read all of it.")] = None,
) -> None:
    """List everything that --system takes, with what it promises; or show one of them.

    \b
    Examples:
      kt-forecast zoo
      kt-forecast zoo gpt
    """
    from kt_forecast.catalogue import catalogue, entry

    if name is None:
        columns = ("system", "family", "for", "promises", "paper")
        _print_table("What --system takes", columns, catalogue())
        return
    found = entry(name)
    for part in ("page", "serves", "promises", "paper", "url"):
        if found[part]:
            said = f"for {found[part]}" if part == "serves" else found[part]
            print(said + ("\n" if part == "page" else ""))
    _print_table(f"Settings of {name}", ("setting", "default", "search space"), found["settings"])


@data_app.command("list")
def data_list() -> None:
    """List the data sets that have a card, and the formats that can be read.

    \b
    Example:
      kt-forecast data list
    """
    from kt_forecast.experiment import tables

    _print_table("Data sets", tables.DATA_SETS, tables.data_sets())
    _print_table("Formats", ("format", "what it is"), tables.formats())


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

    settings = _table_settings(
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
    found = tables.checked(parse_data(settings, _task(settings, task), "data check"))
    _print_table(found.name, ("what", "found"), found.summary)
    for note in found.notes:
        _say(f"note: {note}")


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

    settings = _table_settings(
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
    kind = _task(settings, task)
    chosen = parse_data(settings, kind, "data import")
    card = tables.keep(chosen, name or file.name.split(".")[0], to)
    ahead = " --horizon STEPS" if kind == FORECASTING else ""
    _say(f"wrote {card}; train on it with: kt-forecast train --data {card.parent.name}{ahead}")


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
        _say(sentence)


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
    _show(pooling_study(chosen, runs=runs, device=device, say=_say))


def _recipe(
    recipe: str | None,
    table: dict[str, Any],
    system: str | None,
    task: str | None,
    horizon: int | None,
) -> "AnyRecipe":
    """Return the recipe of the file, with the command line's data and system in place.

    Raises:
        InputError: neither a recipe nor a table is named, or a key or value is refused.
    """
    from kt_forecast.experiment import shipped
    from kt_forecast.experiment.which import parse_recipe, read_recipe

    if recipe is None and "source" not in table:
        raise InputError(
            "train needs a recipe (kt-forecast train pipelines/demo.toml) or a table"
            " (kt-forecast train --data answers.csv)"
        )
    if recipe is not None:
        chosen = read_recipe(shipped(recipe))
        if task not in {None, chosen.task}:
            raise InputError(f"--task {task}: {recipe} is a recipe of {chosen.task}")
        chosen = chosen.on(table, "--data")
    else:
        # Who says how many steps ahead means series.
        kind = FORECASTING if task is None and horizon is not None else _task(table, task)
        if kind == FORECASTING and horizon is None:
            raise InputError(
                f"{table['source']}: how many steps ahead shall series be forecast? accepted is"
                " --horizon with a whole number"
            )
        chosen = parse_recipe({"data": table}, kind, "--data")
    _refuse_other_task(chosen.task, horizon=horizon)
    if horizon is not None:
        chosen = chosen.changed(
            {"forecasting": {"horizon": horizon}, "horizons": ()}, f"--horizon {horizon}"
        )
    if system is None:
        return chosen
    from kt_forecast.catalogue import find
    from kt_forecast.nn.system import System

    return chosen.with_system(system, trained=isinstance(find(system), System))


def _task(table: dict[str, Any], task: str | None) -> str:
    """Return the task of a table, and say so where its columns decided."""
    from kt_forecast.experiment.which import task_of

    if task is not None:
        return task
    found, reason = task_of(table)
    if reason:
        _say(reason)
    return found


def _refuse_other_task(task: str, **options: object) -> None:
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


def _table_settings(
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


def _number(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{where} {text!r}: accepted is a whole number, or all") from None


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def _show(run: "Run | ForecastRun | StudyRun | None") -> None:
    if run is None:
        return
    for title, header, rows in run.tables():
        _print_table(title, header, rows)
    for line in run.closing():
        _say(line)


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


def _print_table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(header):
        table.add_column(name, overflow="fold", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120, markup=False).print(table)


if __name__ == "__main__":
    main()
