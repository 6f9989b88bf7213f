"""The systems that one command asks for by their words."""

from collections.abc import Sequence

from kt_forecast.catalogue import FORECASTING, TRACING, find, serves, serving
from kt_forecast.errors import InputError
from kt_forecast.experiment.recipe_forecast import ForecastRecipe
from kt_forecast.experiment.which import AnyRecipe
from kt_forecast.nn.system import System

ALL = "all"


def systems_of(recipe: AnyRecipe, asked: Sequence[str]) -> list[str]:
    """Return the systems that a recipe is asked for.

    Args:
        recipe: tells the task; its own system where none is asked for.
        asked: words of the catalogue; `ALL` for everything of the task that has epochs.

    Raises:
        InputError: one is unknown, or does not serve the task.
    """
    task = FORECASTING if isinstance(recipe, ForecastRecipe) else TRACING
    if ALL in asked:
        trained = [name for name in serving(task) if isinstance(find(name), System)]
        own = [recipe.model.system] if recipe.model.system in trained else []
        return list(dict.fromkeys([*own, *trained]))
    names = list(dict.fromkeys(asked or [recipe.model.system]))
    for name in names:
        if task not in serves(find(name)):
            raise InputError(
                f"{name} is not for {task}; accepted are {', '.join(serving(task))}, and {ALL}"
            )
    return names
