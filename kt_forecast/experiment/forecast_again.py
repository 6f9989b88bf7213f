"""A stored run of forecasting used again: scored anew, asked for what comes next."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kt_forecast.errors import InputError
from kt_forecast.evaluation.forecasting import PROTOCOLS
from kt_forecast.experiment.forecasting import fit_all_beside, plans, prepare, score
from kt_forecast.experiment.outputs import refuse_ending, write_table
from kt_forecast.experiment.recipe_forecast import ForecastRecipe, SeriesRecipe
from kt_forecast.experiment.running import Say, inside, note_read, put, track_again
from kt_forecast.experiment.series import load, settled
from kt_forecast.experiment.stored import (
    MODEL,
    RECIPE,
    RECORD,
    REPORT,
    SPLIT,
    ForecastRun,
    find,
)
from kt_forecast.forecaster import Fitted
from kt_forecast.nn.system import unknown
from kt_forecast.report import render


def evaluate(
    found: ForecastRun,
    *,
    protocols: tuple[str, ...] = (),
    runs: Path,
    device: str = "auto",
    say: Say = print,
) -> ForecastRun:
    """Score a stored run on its own test rows, and keep what was found with the run.

    Args:
        found: the run.
        protocols: ways of evaluating; by default those of the recipe.
        runs: folder of the runs.
        device: a torch device, or ``auto``.
        say: told what happens.

    Raises:
        InputError: there is no such protocol, or the run's table is not the one it was made of.
    """
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise InputError(unknown(protocol, list(PROTOCOLS), "protocol"))
    recipe = ForecastRecipe.read(inside(found, RECIPE))
    protocols = protocols or recipe.evaluation.protocols
    _, beside = plans(recipe)
    fitted = Fitted.load(inside(found, MODEL), device=device)
    rows = prepare(recipe, load(recipe.data), fitted.horizon, found.folder / SPLIT)
    others = fit_all_beside(recipe, beside, rows, runs, fitted.device, say)
    note_read(found, say)
    scored, _ = score(recipe, fitted, others, rows, protocols)
    fresh = {one.name: one for one in scored}
    kept = [fresh.pop(one.name, one) for one in found.record.protocols]
    record = replace(found.record, protocols=(*kept, *fresh.values()))
    put(found.folder / RECORD, record.to_json())
    put(found.folder / REPORT, render(record))
    track_again(found.folder, scored, runs, say)
    return ForecastRun(found.folder, replace(record, protocols=tuple(scored)))


def forecast(
    name: str,
    data: dict[str, Any],
    *,
    future: Path | None = None,
    levels: tuple[int | float, ...] = (90,),
    out: Path | None = None,
    runs: Path,
    device: str = "auto",
) -> Path:
    """Write what comes after the last value of each series of a table, with intervals.

    Args:
        name: of the run, or its folder.
        data: keys of a recipe's ``[data]``; what is absent is as the run's own table was read.
        future: a table of the covariates known in advance, for the steps ahead.
        levels: of the intervals, in percent.
        out: the file to write, CSV or Parquet; by default beside the caller.
        runs: folder of the runs.
        device: a torch device, or ``auto``.

    Returns:
        The file written.

    Raises:
        InputError: there is no such run, the table is refused, or the file's ending is unknown.
    """
    from kt_forecast.forecaster.estimator import load as forecaster
    from kt_forecast.forecaster.frames import same_facts

    found = find(name, runs)
    if not isinstance(found, ForecastRun):
        raise InputError(
            f"{name} traces students; accepted for it is kt-forecast predict {name} TABLE"
        )
    recipe = ForecastRecipe.read(inside(found, RECIPE))
    own = settled(recipe.data).model_dump(exclude={"source"}, exclude_defaults=True)
    out = out or Path(f"{Path(data['source']).name.split('.')[0]}.forecast.csv")
    refuse_ending(out)
    model = forecaster(inside(found, MODEL), device=device)
    frequency = model.fitted_.frequency
    own |= {"freq": frequency.text, "season": frequency.season}
    table = load(SeriesRecipe.parse(own | data, "forecast"), asking=True)
    table = same_facts(table, model.fitted_.scale.static_names)
    write_table(model.predict(table, futr_df=future, level=levels), out)
    return out
