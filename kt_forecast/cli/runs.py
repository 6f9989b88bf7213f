"""Recorded runs: listed, compared, promoted."""

from pathlib import Path
from typing import Annotated

import typer

from kt_forecast.cli.app import (
    RUNS,
    Device,
    RunName,
    Runs,
    Sets,
    Tracking,
    app,
    print_table,
    say,
    track_at,
)


@app.command()
def runs(
    run: Annotated[
        list[str] | None,
        typer.Argument(help="Runs to hold beside each other: beginnings of ids, or names."),
    ] = None,
    where: Annotated[
        list[str],
        typer.Option(
            "--where",
            help="NAME OP VALUE of a metric, setting or tag, several joined by and; repeat it.",
        ),
    ] = [],
    metric: Annotated[
        list[str], typer.Option("--metric", help="A metric to show; repeat it.")
    ] = [],
    sort: Annotated[
        str, typer.Option("--sort", help="What to sort by; -NAME puts the largest first.")
    ] = "",
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="Only the runs of one experiment.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many to show.")] = 30,
    tracking: Tracking = None,
    runs: Runs = RUNS,
) -> None:
    """List the runs that were recorded, or hold some beside each other.

    \b
    Examples:
      kt-forecast runs
      kt-forecast runs --where "full/auc > 0.7 and system = gpt" --sort -full/auc
      kt-forecast runs demo demo-2
    """
    from kt_forecast.experiment import runs as recorded

    track_at(tracking)
    if run:
        for title, (header, rows) in recorded.beside(run, runs):
            print_table(title, header, rows)
        return
    table = recorded.chosen(runs, where=where, experiment=experiment, sort=sort)
    header, rows = recorded.listed(table.head(limit), metric)
    print_table(f"Runs: {len(rows)} of {len(table)}", header, rows)


@app.command()
def promote(
    run: RunName,
    alias: Annotated[str, typer.Option("--alias", help="What shall mean this run's model.")],
    name: Annotated[
        str, typer.Option("--name", help="Name to register under; else the run's.")
    ] = "",
    override: Annotated[
        str,
        typer.Option(
            "--override",
            metavar="REASON",
            help="Why a model is promoted that its audit does not allow; it is recorded.",
        ),
    ] = "",
    tracking: Tracking = None,
    runs: Runs = RUNS,
) -> None:
    """Register a run's model under a name and an alias; refused without a passing audit.

    \b
    Examples:
      kt-forecast promote demo --alias champion --name tracer
      kt-forecast predict tracer@champion answers.csv --out predictions.csv
    """
    from kt_forecast.experiment.promote import promote as promoted

    track_at(tracking)
    found = promoted(run, alias, model=name, override=override, runs=runs)
    say(f"{found.name}@{alias} is version {found.version}; audit verdict: {found.verdict}")
    if found.override:
        say(f"override: {found.override}")


@app.command()
def compare(
    what: Annotated[
        list[str],
        typer.Argument(help="Runs; recipes, trained where they were not; or boards of --json."),
    ],
    system: Annotated[
        list[str],
        typer.Option(
            "--system",
            help="Train this under every recipe, and go on where one fails: A,B,C or all; repeat.",
        ),
    ] = [],
    set_: Sets = [],
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes that train and score at once.")
    ] = 1,
    hours: Annotated[
        float | None,
        typer.Option("--hours", help="Time that all may take: training ends early to be scored."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Page to write; else compare.html in --runs.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="JSON file to write.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Page for a repository to write.")
    ] = None,
    runs: Runs = RUNS,
    device: Device = "auto",
) -> None:
    """Score systems on the same test rows: intervals, paired differences, cost, audit verdicts.

    \b
    Examples:
      kt-forecast compare demo demo-2 --html compare.html
      kt-forecast compare pipelines/ltsf_etth1.toml pipelines/ltsf_ridge.toml
      kt-forecast compare demo assist2009_gpt --system gpt,mamba,rmt --workers 2
      kt-forecast compare assist2009_gpt --system all --workers 8 --hours 0.5 --json board.json

    Page and JSON are written after every run; the same command goes on with what is missing.

    \f

    Raises:
        Exit: with code 1, where a system is missing on the page.
    """
    from kt_forecast.experiment.board import Board
    from kt_forecast.experiment.compare import compare as compared

    page = html or runs / "compare.html"

    def write(board: Board) -> None:
        board.write(page, json, markdown)

    board = compared(
        what,
        runs=runs,
        systems=[name.strip() for text in system for name in text.split(",") if name.strip()],
        sets=set_,
        workers=workers,
        hours=hours,
        device=device,
        say=say,
        watch=write,
    )
    write(board)
    for title, header, rows in board.tables():
        print_table(title, header, rows)
    for line in board.notes():
        say(line)
    say(f"page: {page.resolve().as_uri()}")
    for path in (json, markdown):
        if path is not None:
            say(f"wrote {path}")
    if board.failed:
        raise typer.Exit(1)
