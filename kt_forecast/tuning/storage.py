"""Where the trials of a study are kept: a journal file, a database, or a server."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from kt_forecast.errors import InputError

JOURNAL = "journal.log"
PORT = 13000
CONNECT_SECONDS = 10.0
DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
"""What reaches a database for which SQLAlchemy would ask for an older driver."""

ATTEMPTS, PAUSE_SECONDS = 8, 0.25
"""Several processes may make the tables of a new database at once, and all but one fail."""


def open_storage(where: str | Path | None) -> BaseStorage:
    """Return a storage.

    Args:
        where: a file, a database's URL or ``grpc://host:port``; None keeps trials in memory.

    Raises:
        InputError: it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if where is None:
        return InMemoryStorage()
    text = str(where)
    if "://" not in text:
        return _journal(Path(text))
    if text.startswith("grpc://"):
        return _served(text)
    return _database(text)


@contextmanager
def opened(where: str | Path | None) -> Iterator[BaseStorage]:
    """Give a storage and let go of its connections afterwards.

    Args:
        where: see `open_storage`.
    """
    storage = open_storage(where)
    try:
        yield storage
    finally:
        close(storage)


def close(storage: BaseStorage) -> None:
    """Let go of the connections of a storage."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()
    elif hasattr(storage, "close"):
        storage.close()


def said(where: str | Path) -> str:
    """Return where trials are kept without the password that a URL may hold."""
    text = str(where)
    url = urlparse(text)
    return text.replace(f":{url.password}@", ":***@") if url.password else text


def _journal(path: Path) -> BaseStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=Lock(path)))


def _database(url: str) -> BaseStorage:
    from sqlalchemy.exc import SQLAlchemyError

    scheme, rest = url.split("://", 1)
    driven = f"{DRIVERS.get(scheme, scheme)}://{rest}"
    return _patiently(lambda: RDBStorage(driven), (SQLAlchemyError,), url)


def _served(url: str) -> BaseStorage:
    parts = urlparse(url)
    logging.getLogger("grpc").setLevel(logging.ERROR)

    def connect() -> BaseStorage:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage: Any = optuna.storages.GrpcStorageProxy(
                host=parts.hostname or "localhost", port=parts.port or PORT
            )
        storage.wait_server_ready(timeout=CONNECT_SECONDS)
        return storage

    try:
        return connect()
    except ImportError:
        raise InputError(
            f"{said(url)}: needs the package grpcio; accepted is pip install 'kt-forecast[tune]'"
        ) from None
    except (TimeoutError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{said(url)}: no server answers ({_first_line(error)}); accepted is the address of a"
            " storage server that runs"
        ) from None


def _patiently(
    make: Callable[[], BaseStorage], failures: tuple[type[Exception], ...], url: str
) -> BaseStorage:
    """Return what ``make`` makes, tried again where another process was faster.

    Raises:
        InputError: it failed each time, or its driver is missing.
    """
    for attempt in range(ATTEMPTS):
        try:
            return make()
        except (ImportError, ValueError) as error:
            reason = _first_line(error)
            break
        except failures as error:
            reason = _first_line(error)
            time.sleep(PAUSE_SECONDS * (attempt + 1))
    raise InputError(
        f"the storage {said(url)} cannot be opened ({reason}); accepted are a file,"
        " sqlite:///file.db, postgresql://user@host/name and grpc://host:port"
    )


class Lock(JournalFileOpenLock):  # type: ignore[misc]
    """Keeps other processes out of a journal while one appends to it.

    The operating system lets go of it when its holder dies, so that nobody waits for a lock whose
    owner was killed. A line that was cut off by such a death is removed: no reader has taken it
    for an entry, and what came after it would be lost with it.

    Args:
        path: of the journal.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))

    def acquire(self) -> bool:
        """Wait until no other process appends."""
        self._lock.acquire()
        self._mend()
        return True

    def release(self) -> None:
        """Let the next one append."""
        self._lock.release()

    def _mend(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            if not end:
                return
            file.seek(end - 1)
            if file.read(1) == b"\n":
                return
            file.seek(0)
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
