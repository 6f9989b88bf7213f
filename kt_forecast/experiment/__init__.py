"""One experiment from a recipe to a tracked, audited, reported run.

The names below are imported when they are first used: looking at a table loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kt_forecast.experiment.again import evaluate, predict, report
    from kt_forecast.experiment.folds import run
    from kt_forecast.experiment.recipe import Recipe, shipped
    from kt_forecast.experiment.stored import Run, find

__all__ = ["Recipe", "Run", "evaluate", "find", "predict", "report", "run", "shipped"]

_HOME = {
    "evaluate": "again",
    "predict": "again",
    "report": "again",
    "run": "folds",
    "Recipe": "recipe",
    "shipped": "recipe",
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
