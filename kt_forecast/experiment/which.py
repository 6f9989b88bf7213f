"""Which task a recipe, a data set or a table is for."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kt_forecast.data.cards import card_names, read_card
from kt_forecast.data.readers import detect
from kt_forecast.data.series.columns import are_stamps, is_number
from kt_forecast.data.series.source import Source, open_source
from kt_forecast.errors import InputError
from kt_forecast.experiment.recipe import DataRecipe, Recipe
from kt_forecast.experiment.recipe_base import read_toml
from kt_forecast.experiment.recipe_forecast import (
    SERIES_COLUMNS,
    ForecastRecipe,
    SeriesRecipe,
)
from kt_forecast.schema import DS, RESPONSE, STUDENT, UNIQUE_ID, Y

if TYPE_CHECKING:
    from kt_forecast.experiment.station import Station
    from kt_forecast.experiment.stored import ForecastRun, Run

AnyRecipe = Recipe | ForecastRecipe
AnyData = DataRecipe | SeriesRecipe

TASK = "task"
TRACING = "knowledge_tracing"
FORECASTING = "forecasting"
RECIPES: dict[str, type[AnyRecipe]] = {TRACING: Recipe, FORECASTING: ForecastRecipe}


def read_recipe(path: Path) -> AnyRecipe:
    """Read a recipe of either task, which its ``task`` tells; without one it traces knowledge.

    Raises:
        InputError: the file is not there, is no TOML, or holds an unknown key or value.
    """
    plain = read_toml(path)
    return _of(plain.get(TASK, TRACING), str(path)).at(path, plain)


def run(
    recipe: AnyRecipe,
    *,
    runs: Path,
    device: str = "auto",
    say: Callable[[str], None] = print,
    station: "Station | None" = None,
) -> "Run | ForecastRun | None":
    """Do what a recipe of either task describes.

    Args:
        recipe: what to do.
        runs: folder of the runs, of MLflow's database and of the cache.
        device: a torch device, or ``auto``.
        say: told what happens, one sentence at a time.
        station: what other runs of this process have made, and when to end.

    Returns:
        The run, or the summary of several; None in a process of several that is not the first.

    Raises:
        InputError: a setting or the table cannot be used; nothing was written.
    """
    if isinstance(recipe, ForecastRecipe):
        from kt_forecast.experiment.series_runs import run as forecast

        return forecast(recipe, runs=runs, device=device, say=say, station=station)
    from kt_forecast.experiment.folds import run as trace

    return trace(recipe, runs=runs, device=device, say=say, station=station)


def parse_recipe(plain: dict[str, Any], task: str, where: str) -> AnyRecipe:
    """Return the recipe of a task from plain values.

    Raises:
        InputError: there is no such task, or a key or value is refused.
    """
    return _of(task, where).parse(plain, where)


def parse_data(plain: dict[str, Any], task: str, where: str) -> AnyData:
    """Return where a table of a task comes from.

    Raises:
        InputError: there is no such task, or a key or value is refused.
    """
    _of(task, where)
    kind: type[AnyData] = SeriesRecipe if task == FORECASTING else DataRecipe
    return kind.parse(plain, where)


def task_of(data: dict[str, Any]) -> tuple[str, str]:
    """Return the task of a table that the command line names, and why where it was a judgement.

    Series are told by what was said of them (a frequency, a covariate, a column's canonical name),
    by a data set's card, or by the table's own columns: a value ``y`` with an id or a stamp, or a
    first column of dates in a file that no reader of answers knows.

    Args:
        data: keys of a recipe's ``[data]``.

    Returns:
        The task, and one sentence for the user; empty where nothing was judged.
    """
    source, columns = str(data["source"]), data.get("columns", {})
    if not Path(source).exists() and source in card_names():
        return read_card(source).task, ""
    of_series = set(SeriesRecipe.model_fields) - set(DataRecipe.model_fields)
    if of_series & set(data) or set(columns) & set(SERIES_COLUMNS):
        return FORECASTING, ""
    if columns or set(data) & (set(DataRecipe.model_fields) - set(SeriesRecipe.model_fields)):
        return TRACING, ""
    return _judged(Path(source))


def _judged(path: Path) -> tuple[str, str]:
    """Judge a file by its columns; what is no plain table is left to the readers of students."""
    try:
        found = open_source(path)
        names = set(found.names)
        if Y in names and names & {UNIQUE_ID, DS} and not {STUDENT, RESPONSE} & names:
            reason = f"it has the columns {', '.join(c for c in SERIES_COLUMNS if c in names)}"
        elif not _of_students(path) and _begins_with_dates(found):
            reason = f"it begins with dates, in the column {found.names[0]!r}"
        else:
            return TRACING, ""
    except InputError:
        return TRACING, ""
    said = f"{path.name}: read as series, for {reason}; --task {TRACING} says otherwise"
    return FORECASTING, said


def _of_students(path: Path) -> bool:
    """Tell whether a reader of answers knows the file by its content."""
    try:
        detect(path)
    except InputError:
        return False
    return True


def _begins_with_dates(found: Source) -> bool:
    """Tell whether the first column holds dates, or numbers under the name of a date."""
    if not found.names:
        return False
    first = found.names[0]
    head = found.head(first)
    return are_stamps(head) and (first == found.dated() or not is_number(head))


def _of(task: object, where: str) -> type[AnyRecipe]:
    """Return the recipes of a task.

    Raises:
        InputError: there is no such task.
    """
    if task not in RECIPES:
        raise InputError(f"{where}: task is {task!r}; accepted are {' and '.join(RECIPES)}")
    return RECIPES[str(task)]
