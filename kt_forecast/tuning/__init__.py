"""Studies that look for good settings; nothing outside this package imports Optuna.

A study sees a `Problem`: settings in, a validation score out. It is given no table and no split,
and who makes a problem leaves the test rows out before (`kt_forecast.experiment.tuning`).
"""

from kt_forecast.tuning.ledger import Trial
from kt_forecast.tuning.place import Budget, Place, View, parent_is_gone
from kt_forecast.tuning.problem import Found, Outcome, Problem, Sections
from kt_forecast.tuning.recording import Recorder
from kt_forecast.tuning.running import threads
from kt_forecast.tuning.settings import Search
from kt_forecast.tuning.space import Dimension, Space
from kt_forecast.tuning.storage import JOURNAL
from kt_forecast.tuning.storage import said as storage_said
from kt_forecast.tuning.study import Viewer, best_of, collect, name_of, search

__all__ = [
    "JOURNAL",
    "Budget",
    "Dimension",
    "Found",
    "Outcome",
    "Place",
    "Problem",
    "Recorder",
    "Search",
    "Sections",
    "Space",
    "Trial",
    "View",
    "Viewer",
    "best_of",
    "collect",
    "name_of",
    "parent_is_gone",
    "search",
    "storage_said",
    "threads",
]
