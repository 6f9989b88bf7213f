"""A stored run used again: scored under other protocols, asked for predictions, shown."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kt_forecast.data import tables as sources
from kt_forecast.data.cards import card_names
from kt_forecast.errors import InputError
from kt_forecast.experiment import tables
from kt_forecast.experiment.flow import check_protocols, fit_all_beside, plans, prepare, score
from kt_forecast.experiment.outputs import refuse_ending, write_table
from kt_forecast.experiment.recipe import DataRecipe, Recipe
from kt_forecast.experiment.running import Say, inside, note_read, put, track_again
from kt_forecast.experiment.stored import (
    MODEL,
    RECIPE,
    RECORD,
    REPORT,
    SPLIT,
    ForecastRun,
    Run,
    find,
)
from kt_forecast.report import render, write
from kt_forecast.schema import LINE
from kt_forecast.tracer import Fitted, predict_rows
from kt_forecast.tracer.frames import with_p_correct


def evaluate(
    name: str,
    *,
    protocols: tuple[str, ...] = (),
    runs: Path,
    device: str = "auto",
    say: Say = print,
) -> Run | ForecastRun:
    """Score a stored run on its own test rows, and keep what was found with the run.

    Args:
        name: of the run, or its folder.
        protocols: ways of evaluating; by default those of the recipe.
        runs: folder of the runs.
        device: a torch device, or ``auto``.
        say: told what happens.

    Raises:
        InputError: there is no such run or protocol, or its table is not the one it was made of.
    """
    found = find(name, runs)
    if isinstance(found, ForecastRun):
        from kt_forecast.experiment.forecast_again import evaluate as score_series

        return score_series(found, protocols=protocols, runs=runs, device=device, say=say)
    check_protocols(protocols or ("full",))
    recipe = Recipe.read(inside(found, RECIPE))
    protocols = protocols or recipe.evaluation.protocols
    _, beside = plans(recipe)
    fitted = Fitted.load(inside(found, MODEL), device=device)
    rows = prepare(recipe, tables.load(recipe.data), found.folder / SPLIT)
    others = fit_all_beside(recipe, beside, rows, runs, fitted.device, say)
    note_read(found, say)
    scored, _ = score(recipe, fitted, others, rows, protocols)
    fresh = {one.name: one for one in scored}
    kept = [fresh.pop(one.name, one) for one in found.record.protocols]
    record = replace(found.record, protocols=(*kept, *fresh.values()))
    put(found.folder / RECORD, record.to_json())
    put(found.folder / REPORT, render(record))
    track_again(found.folder, scored, runs, say)
    return Run(found.folder, replace(record, protocols=tuple(scored)))


def predict(
    name: str,
    data: dict[str, Any],
    *,
    out: Path | None = None,
    runs: Path,
    device: str = "auto",
) -> Path:
    """Write a table with the column ``p_correct``: each row predicted from those before it.

    Args:
        name: of the run, or its folder.
        data: keys of a recipe's ``[data]``; what is absent is as the run's own table was read.
        out: the file to write, CSV or Parquet; by default beside the caller.
        runs: folder of the runs.
        device: a torch device, or ``auto``.

    Returns:
        The file written.

    Raises:
        InputError: there is no such run, the table is refused, or the file's ending is unknown.
    """
    found = find(name, runs)
    if isinstance(found, ForecastRun):
        raise InputError(
            f"{name} forecasts series; accepted for it is kt-forecast forecast {name} TABLE"
        )
    recipe = Recipe.read(inside(found, RECIPE))
    own = recipe.data.model_dump(include={"columns", "separator", "repeats"})
    known = {key: value for key, value in own.items() if value}
    settings = DataRecipe.parse(known | data, "predict")
    source = settings.source
    out = out or Path(f"{Path(source).name.split('.')[0]}.predicted.csv")
    refuse_ending(out)
    fitted = Fitted.load(inside(found, MODEL), device=device)
    interactions = tables.load(settings, asking=True)
    p_correct = predict_rows(fitted, interactions)
    if source in card_names():
        frame = with_p_correct(replace(interactions, source=None), interactions, p_correct)
    else:
        raw = sources.read(Path(source), columns=settings.columns, format=settings.format)
        frame = with_p_correct(raw.collect().drop(LINE, strict=False), interactions, p_correct)
    write_table(frame, out)
    return out


def report(name: str, *, out: Path | None = None, runs: Path) -> Path:
    """Write the HTML report of a stored run again, and return where.

    Args:
        name: of the run, or its folder.
        out: the file to write; by default the run's own.
        runs: folder of the runs.

    Raises:
        InputError: there is no such run.
    """
    found = find(name, runs)
    path = out or found.folder / REPORT
    write(found.record, path)
    return path
