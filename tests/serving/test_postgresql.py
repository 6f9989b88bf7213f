"""The same store in a real PostgreSQL, started for the test in a folder of its own."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from kt_forecast.errors import InputError
from kt_forecast.serving.store import Append, Appended, Event, Refused, Store
from tests.serving.clients import free_port

NOBODY = "postgres"


def _program(name: str) -> str | None:
    beside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(beside[-1]) if beside else None)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    initdb, postgres = _program("initdb"), _program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("no PostgreSQL on this machine")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    home = tmp_path_factory.mktemp("postgres")
    as_user: tuple[str, ...] = ()
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        try:
            shutil.chown(home, NOBODY)
        except LookupError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        mine = Path(tempfile.gettempdir())
        for folder in home.parents:
            if mine in folder.parents:
                folder.chmod(0o755)
        as_user = ("setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups")
    data, port = home / "data", free_port()
    settings = ("-A", "trust", "-U", "tester", "--no-sync", "-E", "UTF8")
    subprocess.run([*as_user, initdb, "-D", data, *settings], check=True, capture_output=True)
    command = [*as_user, postgres, "-D", data, "-p", str(port), "-k", home, "-h", "127.0.0.1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"postgresql://tester@127.0.0.1:{port}/postgres"
    try:
        _wait(url)
        yield url, process
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(url: str) -> None:
    import time

    import psycopg

    for _ in range(3000):
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("PostgreSQL did not start")


def _one(name: str, key: str | None = None, digest: str = "") -> Append:
    return Append(name, (Event(5, '{"a":"ü"}'),), key, digest)


def test_the_log_in_postgresql(server):
    url, _ = server
    store = Store(url, "knowledge_tracing", lambda *_: None)
    first = store.append([_one("a", "k", "1"), _one("a", "k", "1"), _one("b")])
    assert first == [Appended(1, 1, 1), Appended(1, 1, 1, replayed=True), Appended(2, 1, 1)]
    assert isinstance(store.append([_one("a", "k", "2")])[0], Refused)
    store.keep([(1, "model", 1, b"\x00\xff")])
    store.keep([(1, "model", 2, b"\x01")])
    assert store.tails([1, 2], "model") == {1: (2, b"\x01")}
    assert store.events(1, 0) == [Event(5, '{"a":"ü"}')]
    with pytest.raises(InputError, match="in use"):
        Store(url, "knowledge_tracing", lambda *_: None)
    assert store.names("", 10) == [("a", 1), ("b", 1)]
    store.close()
    again = Store(url, "knowledge_tracing", lambda *_: None)
    assert again.append([_one("a", "k", "1")]) == [Appended(1, 1, 1, replayed=True)]
    # A connection that breaks is made anew, and with it the lock.
    import psycopg

    with psycopg.connect(url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()"
        )
    from sqlalchemy.exc import DBAPIError

    with pytest.raises(DBAPIError):
        again.append([_one("b")])
    assert again.append([_one("b")]) == [Appended(2, 2, 1)]
    again.close()


def test_a_service_on_postgresql_goes_on_after_a_stop(server, tracers, serving):
    import asyncio

    import psycopg

    url, _ = server
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")

    async def run() -> list[int]:
        found = []
        for _ in range(2):
            async with serving(tracers(), store=url, live=1) as (service, client):
                for student in ("a", "b"):
                    body = {"student": student, "answers": [{"question": "1", "response": 1}]}
                    reply = await client.post("/v1/interactions", json=body)
                    found.append(reply.json()["n_answers"])
                loaded = service.minds.loaded
        assert loaded == 2
        return found

    assert asyncio.run(run()) == [1, 1, 2, 2]
