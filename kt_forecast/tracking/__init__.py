"""Runs recorded in MLflow; nothing outside this package imports it.

Without ``MLFLOW_TRACKING_URI`` runs go to SQLite in ``mlruns/``. MLflow is imported when the first
run is recorded or looked up, not when this package is.
"""

from kt_forecast.tracking.runs import download, find, runs
from kt_forecast.tracking.store import Store, is_dead, this_process
from kt_forecast.tracking.tracker import Tracker
from kt_forecast.tracking.versions import code_version, versions

__all__ = [
    "Store",
    "Tracker",
    "code_version",
    "download",
    "find",
    "is_dead",
    "runs",
    "this_process",
    "versions",
]
