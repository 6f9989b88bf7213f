"""Search settings."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kt_forecast.cli.app import RUNS, Device, Runs, Sets, app, print_table, say

if TYPE_CHECKING:
    from rich.table import Table

    from kt_forecast.tuning import View

SHOWN_TRIALS = 8


@app.command()
def tune(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe (TOML file), or the name of one in pipelines/.")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials", help="Settings to try in all, of each system; earlier calls count."
        ),
    ] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", help="Time that this call may take, finalists too.")
    ] = None,
    sampler: Annotated[
        str, typer.Option("--sampler", help="tpe, gp, cmaes, or nsga2: score against cost.")
    ] = "tpe",
    pruner: Annotated[
        str, typer.Option("--pruner", help="halving, hyperband, none; auto: halving with tpe.")
    ] = "auto",
    cost: Annotated[
        str, typer.Option("--cost", help="What nsga2 lowers: parameters, or counted flops.")
    ] = "parameters",
    system: Annotated[
        list[str],
        typer.Option("--system", help="What to search in the recipe's place; all; repeat it."),
    ] = [],
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="URL",
            help="A file, a database or grpc://host:port; else a file of the study's own.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes of this machine that search.")
    ] = 1,
    finalists: Annotated[
        int, typer.Option("--finalists", help="Best settings that are trained with more seeds.")
    ] = 3,
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds of each finalist.")] = 3,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write the winner's recipe too.")
    ] = None,
    set_: Sets = [],
    runs: Runs = RUNS,
    device: Device = "auto",
) -> None:
    """Search good settings by validation; the test rows are left out of the table first.

    The same command goes on with a study that was interrupted, and may run in several terminals or
    on several hosts at once. What is searched stands beside the fields (kt-forecast zoo NAME), and
    a recipe's [search] narrows it.

    \b
    Examples:
      kt-forecast tune pipelines/demo.toml --trials 20
      kt-forecast tune assist2009_gpt --hours 8 --workers 4 --out best.toml
      kt-forecast tune pipelines/demo.toml --trials 10 --system all
      kt-forecast tune pipelines/demo.toml --trials 50 --sampler nsga2 --cost flops
    """
    from kt_forecast.tuning import Search

    how = Search.parse(
        {
            "trials": trials,
            "hours": hours,
            "sampler": sampler,
            "pruner": pruner,
            "cost": cost,
            "finalists": finalists,
            "seeds": seeds,
            "storage": storage,
        },
        "tune",
    )
    from kt_forecast.experiment import shipped
    from kt_forecast.experiment.tuning import tune as tuned
    from kt_forecast.experiment.which import read_recipe

    chosen = read_recipe(shipped(recipe or "demo")).with_sets(set_)
    with _shown() as (tell, watch):
        found = tuned(
            chosen,
            how,
            systems=system,
            workers=workers,
            runs=runs,
            device=device,
            out=out,
            say=tell,
            watch=watch,
        )
    for title, header, rows in found.tables():
        print_table(title, header, rows)
    for line in found.closing():
        say(line)


@contextmanager
def _shown() -> Iterator[tuple[Any, Any]]:
    """Give what says a sentence and what shows a study: a table, or lines outside a terminal."""
    if not sys.stdout.isatty():
        yield say, _Lines().show
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(markup=False)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield console.print, lambda view: live.update(live_table(view), refresh=True)


class _Lines:
    """One line for each trial that ended."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str, int]] = set()

    def show(self, view: "View") -> None:
        """Say what ended since the last time."""
        for slot in view.slots:
            for one in slot.tries:
                key = (view.system, view.phase, one.number)
                if one.ended and key not in self._said:
                    self._said.add(key)
                    score = "" if one.value != one.value else f", {_score(view, one.value)}"
                    why = f": {one.reason}" if one.reason else ""
                    say(
                        f"{view.system} {_what(view)} {one.number} {one.state}{score} after"
                        f" {one.seconds:.1f} s{why}"
                    )


def live_table(view: "View") -> "Table":
    """Return the best trials of a study, those that run, and how far it is."""
    from rich.table import Table

    ended = [slot.last for slot in view.slots if slot.last.ended]
    running = [slot.last for slot in view.slots if slot.last.state == "running"]
    done = [one for one in ended if one.state == "complete"]
    done.sort(key=lambda one: one.value, reverse=view.problem.direction == "max")
    default = next((one for one in done if one.is_default), None)
    total = "" if view.total is None else f" of {view.total}"
    title = (
        f"{view.system}, {_what(view)}s: {len(ended)}{total} ended {_bar(len(ended), view.total)}"
    )
    table = Table(title=title, title_justify="left")
    for name in ("trial", "state", view.problem.metric, "difference", "epochs", "seconds", "tried"):
        table.add_column(name, no_wrap=name != "tried")
    for one in [*running, *done[:SHOWN_TRIALS]]:
        gap = "-" if default is None else f"{one.value - default.value:+.4f}"
        tried = ", ".join(f"{k.split('.')[-1]}={_short(v)}" for k, v in one.params.items())
        table.add_row(
            str(one.number),
            one.state,
            _score(view, one.value).split(" ")[-1],
            gap,
            str(one.facts.get("epochs") or len(one.reports)),
            f"{one.seconds:.0f}",
            "the recipe as it stands" if one.is_default else tried,
        )
    pruned = sum(one.state == "pruned" for one in ended)
    left = "" if view.deadline is None else f"; {_left(view.deadline)} left"
    table.caption = f"{len(done)} completed, {pruned} pruned, {len(running)} running{left}"
    return table


def _what(view: "View") -> str:
    return "trial" if view.phase == "search" else "finalist"


def _score(view: "View", value: float) -> str:
    return f"validation {view.problem.metric} {value:.4f}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _bar(count: int, total: int | None, width: int = 20) -> str:
    if not total:
        return ""
    full = min(width, round(width * count / total))
    return "━" * full + "╌" * (width - full)


def _left(deadline: float) -> str:
    import time

    seconds = max(0, round(deadline - time.time()))
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
