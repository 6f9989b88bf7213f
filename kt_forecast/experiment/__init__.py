"""One experiment from a recipe to a tracked, audited, reported run."""

from kt_forecast.experiment.again import evaluate, predict, report
from kt_forecast.experiment.folds import run
from kt_forecast.experiment.recipe import Recipe, shipped
from kt_forecast.experiment.stored import Run, find

__all__ = ["Recipe", "Run", "evaluate", "find", "predict", "report", "run", "shipped"]
