"""Train, score, predict, forecast and report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kt_forecast.cli.app import (
    FORECASTING,
    RUNS,
    Columns,
    Device,
    Format,
    Freq,
    Gaps,
    Known,
    Past,
    Repeats,
    RunName,
    Runs,
    Separator,
    Sets,
    Stamps,
    Static,
    Task,
    Tracking,
    app,
    refuse_other_task,
    say,
    show,
    table_settings,
    task_of_table,
    track_at,
)
from kt_forecast.errors import InputError

if TYPE_CHECKING:
    from kt_forecast.experiment.which import AnyRecipe


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
        show(run(read_recipe(shipped(name)), runs=runs, device=device, say=say))


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
    tracking: Tracking = None,
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

    track_at(tracking)
    table = table_settings(
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
    refuse_other_task(chosen.task, fold=fold, coin_flip=coin_flip or None)
    if seed is not None and chosen.task == FORECASTING:
        changes["seeds"] = ()
    show(run(chosen.changed(changes, "the command line"), runs=runs, device=device, say=say))


@app.command()
def evaluate(
    name: RunName,
    protocol: Annotated[
        list[str],
        typer.Option(
            "--protocol",
            help="pykt, full, stream or cold_start; of series ltsf, stream or rolling; repeat it.",
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

    show(score(name, protocols=tuple(protocol), runs=runs, device=device, say=say))


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

    settings = table_settings(
        str(table), column, format=format, separator=separator, repeats=repeats
    )
    place = predicted(name, settings, out=out, runs=runs, device=device)
    say(f"wrote {place}")


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

    settings = table_settings(
        str(table), column, format=format, freq=freq, gaps=gaps, stamps=stamps
    )
    place = ahead(
        name, settings, future=future, levels=tuple(level), out=out, runs=runs, device=device
    )
    say(f"wrote {place}")


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

    say(f"report: {written(name, out=out, runs=runs)}")


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
        kind = FORECASTING if task is None and horizon is not None else task_of_table(table, task)
        if kind == FORECASTING and horizon is None:
            raise InputError(
                f"{table['source']}: how many steps ahead shall series be forecast? accepted is"
                " --horizon with a whole number"
            )
        chosen = parse_recipe({"data": table}, kind, "--data")
    refuse_other_task(chosen.task, horizon=horizon)
    if horizon is not None:
        chosen = chosen.changed(
            {"forecasting": {"horizon": horizon}, "horizons": ()}, f"--horizon {horizon}"
        )
    if system is None:
        return chosen
    from kt_forecast.catalogue import find
    from kt_forecast.nn.system import System

    return chosen.with_system(system, trained=isinstance(find(system), System), say=say)


def _number(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{where} {text!r}: accepted is a whole number, or all") from None
