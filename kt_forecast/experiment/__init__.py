"""One experiment from a recipe to a tracked, audited, reported run.

The names below are imported when they are first used: looking at a table loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kt_forecast.experiment.again import evaluate, predict, report
    from kt_forecast.experiment.forecast_again import forecast
    from kt_forecast.experiment.recipe import Recipe
    from kt_forecast.experiment.recipe_base import shipped
    from kt_forecast.experiment.recipe_forecast import ForecastRecipe
    from kt_forecast.experiment.stored import ForecastRun, Run, find
    from kt_forecast.experiment.which import run

__all__ = [
    "ForecastRecipe",
    "ForecastRun",
    "Recipe",
    "Run",
    "evaluate",
    "find",
    "forecast",
    "predict",
    "report",
    "run",
    "shipped",
]

_HOME = {
    "evaluate": "again",
    "predict": "again",
    "report": "again",
    "forecast": "forecast_again",
    "run": "which",
    "ForecastRecipe": "recipe_forecast",
    "ForecastRun": "stored",
    "Recipe": "recipe",
    "shipped": "recipe_base",
    "Run": "stored",
    "find": "stored",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
