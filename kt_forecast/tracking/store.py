"""Where runs are kept: the server that the environment names, else SQLite in one folder."""

import logging
import os
import socket
import sqlite3
import uuid
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import psutil
from filelock import FileLock

from kt_forecast.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ROOT = Path("mlruns")
DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"
PROCESS = "kt_forecast.process"
"""Tag: the process that records the run, so that its death can be noticed."""

_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns in which MLflow keeps absolute paths."""


class Store:
    """A place of runs, ready for use by several processes at once.

    Args:
        root: folder of the database and the artifacts, made where it is missing; unused where
            ``MLFLOW_TRACKING_URI`` names a server.

    Attributes:
        uri: MLflow's tracking URI.
        client: MLflow's client of it.

    Raises:
        InputError: the store cannot be opened.
    """

    def __init__(self, root: Path = ROOT) -> None:
        mlflow = quietly("mlflow.store.tracking.sqlalchemy_store", "mlflow")
        from sqlalchemy.exc import SQLAlchemyError

        self.root = root.resolve()
        remote = os.environ.get("MLFLOW_TRACKING_URI")
        self.is_local = not remote
        self.uri = remote or f"sqlite:///{self.root / DATABASE}"
        mlflow.set_tracking_uri(self.uri)
        if self.is_local:
            # MLflow puts it there for its children; another `Store` would take it for the user's.
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        try:
            with self._alone():
                self.client: MlflowClient = self._opened(mlflow)
        except (mlflow.exceptions.MlflowException, SQLAlchemyError, OSError) as error:
            raise InputError(
                f"the tracking store {self.uri} cannot be opened ({_first_line(error)}); accepted "
                f"are a folder that can be written to, or MLFLOW_TRACKING_URI of a running server"
            ) from None

    def _opened(self, mlflow: Any) -> "MlflowClient":  # noqa: ANN401
        """Return a client whose store answers; what could not be made whole is removed again."""
        database = self.root / DATABASE
        is_new = self.is_local and not database.exists()
        try:
            client: MlflowClient = mlflow.MlflowClient(self.uri)
            client.search_experiments(max_results=1)
        except Exception:
            if is_new:
                database.unlink(missing_ok=True)
            raise
        return client

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes out: MLflow breaks a database that two make or change at once."""
        if not self.is_local:
            yield
            return
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock"):
            if (self.root / DATABASE).exists():
                _relocate(self.root)
            yield

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, made where it is missing."""
        with self._alone():
            known = self.client.get_experiment_by_name(name)
            if known is not None:
                return known.experiment_id
            place = (self.root / ARTIFACTS).as_uri() if self.is_local else None
            return self.client.create_experiment(name, artifact_location=place)

    def experiments(self, name: str | None = None) -> dict[str, str]:
        """Return the names of all experiments, or of the one asked for, by id."""
        found = self.client.search_experiments()
        return {e.experiment_id: e.name for e in found if name in {None, e.name}}

    def close_dead(self) -> None:
        """Mark runs of this machine as failed whose process ended without a word."""
        ids = list(self.experiments())
        for run in self.client.search_runs(ids, "attributes.status = 'RUNNING'"):
            if is_dead(run.data.tags.get(PROCESS, "")):
                self.client.set_tag(run.info.run_id, "error", "the process ended without a word")
                self.client.set_terminated(run.info.run_id, "FAILED")


def is_unused(root: Path) -> bool:
    """Return whether nothing was ever recorded: the store would be a local one, not yet made.

    Args:
        root: folder of the store, see `Store`.
    """
    return not os.environ.get("MLFLOW_TRACKING_URI") and not (root / DATABASE).exists()


def this_process() -> str:
    """Return words that no other process has, on this machine or another."""
    process = psutil.Process()
    return f"{_machine()} {process.pid} {process.create_time():.2f}"


def _machine() -> str:
    return f"{socket.gethostname()}-{uuid.getnode():x}"


def is_dead(process: str) -> bool:
    """Return whether a process was of this machine and is no more."""
    machine, _, rest = process.partition(" ")
    pid, _, born = rest.partition(" ")
    if machine != _machine():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != born
    except psutil.NoSuchProcess:
        return True


def quietly(*names: str) -> Any:  # noqa: ANN401
    """Import parts of MLflow with its reports to its makers, and its chatter, switched off.

    Returns:
        The last of them.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for logger in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # MLflow's parts warn about one another as they are imported.
        warnings.simplefilter("ignore")
        return [import_module(name) for name in names][-1]


def _relocate(root: Path) -> None:
    """Point a store whose folder was moved at where its artifacts lie now."""
    with closing(sqlite3.connect(root / DATABASE, timeout=20)) as database:
        try:
            rows = database.execute("SELECT artifact_location FROM experiments").fetchall()
        except sqlite3.OperationalError:
            return
        new = (root / ARTIFACTS).as_uri()
        for (old,) in set(rows):
            if old and old.endswith(f"/{ARTIFACTS}") and old != new and _is_gone(old):
                for table, column in _PLACES:
                    database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
        database.commit()


def _is_gone(uri: str) -> bool:
    place = urlparse(uri)
    return place.scheme == "file" and not Path(unquote(place.path)).exists()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]
