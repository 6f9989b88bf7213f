"""What is answered is kept: through kill -9, a stop, a newer model, a full or broken store."""

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing

import pytest

from kt_forecast.serving.store import Append, Appended, Event, Refused, Store
from tests.serving.clients import Client, Served
from tests.serving.conftest import OVERRIDE

CLIENTS, EACH = 6, 40
PATIENCE = 900


def _logged(path) -> Counter:
    """Return how often each question stands in a log."""
    with closing(sqlite3.connect(path)) as log:
        return Counter(
            json.loads(body)["question"] for (body,) in log.execute("SELECT body FROM events")
        )


def _body(student: str, question: str) -> dict:
    return {"student": student, "answers": [{"question": question, "response": 1}]}


async def _post_all(served: Served, client_name: int, acknowledged: list, until: float) -> None:
    client = Client(served.port)
    some = random.Random(client_name)
    for i in range(EACH):
        question = f"c{client_name}-{i}"
        body = _body(f"s{some.randrange(8)}", question)
        status, _ = await client.insist("/v1/interactions", body, question, until)
        assert status == 200
        acknowledged.append(question)
    client.close()


def test_kill_9_neither_loses_nor_doubles_an_acknowledged_answer(tracers, tmp_path):
    log = tmp_path / "log.db"
    options = ("--override", OVERRIDE, "--live", "4")
    served = Served(str(tracers()), f"sqlite:///{log}", tmp_path, options).start()

    async def run() -> list[str]:
        acknowledged: list[str] = []
        until = time.monotonic() + PATIENCE
        posts = [_post_all(served, i, acknowledged, until) for i in range(CLIENTS)]
        work = asyncio.gather(*posts)
        for share in (0.25, 0.6):
            while len(acknowledged) < share * CLIENTS * EACH:
                await asyncio.sleep(0.005)
                if work.done():
                    break
            assert not work.done()
            before = len(acknowledged)
            await asyncio.to_thread(served.kill)
            known = _logged(log)
            assert all(known[question] == 1 for question in acknowledged[:before])
            await asyncio.to_thread(served.start)
        await work
        client = Client(served.port)
        status, reply = await client.post("/v1/predict", {"student": "s0", "questions": [{}]})
        client.close()
        assert status == 200
        return [*acknowledged, reply["n_answers"]]

    *acknowledged, of_first = asyncio.run(run())
    status, said = served.stop()
    assert status == 0, said
    known = _logged(log)
    lost = [question for question in acknowledged if known[question] == 0]
    doubled = [question for question, count in known.items() if count > 1]
    assert (lost, doubled) == ([], [])
    assert len(known) == CLIENTS * EACH
    with closing(sqlite3.connect(log)) as found:
        query = "SELECT seq FROM events JOIN streams ON stream = id WHERE name = 's0' ORDER BY seq"
        assert [seq for (seq,) in found.execute(query)] == list(range(1, of_first + 1))


def test_a_stop_answers_what_is_under_way_and_keeps_all_states(tracers, tmp_path):
    log = tmp_path / "log.db"
    served = Served(str(tracers()), f"sqlite:///{log}", tmp_path, ("--override", OVERRIDE)).start()

    async def run() -> list:
        clients = [Client(served.port) for _ in range(8)]
        for i, client in enumerate(clients):
            await client.post("/v1/interactions", _body(f"s{i}", "first"), f"first{i}")
        posts = [
            asyncio.create_task(client.post("/v1/interactions", _body(f"s{i}", "last"), f"last{i}"))
            for i, client in enumerate(clients)
        ]
        await asyncio.sleep(0)
        os.kill(served.process.pid, signal.SIGTERM)
        replies = await asyncio.gather(*posts, return_exceptions=True)
        for client in clients:
            client.close()
        return replies

    replies = asyncio.run(run())
    said, _ = served.process.communicate(timeout=300)
    assert served.process.returncode == 0, said
    answered = [r for r in replies if not isinstance(r, Exception) and r[0] == 200]
    known = _logged(log)
    assert known["first"] == 8
    assert known["last"] >= len(answered)
    with closing(sqlite3.connect(log)) as found:
        query = (
            "SELECT count(*) FROM states s WHERE seq ="
            " (SELECT max(seq) FROM events e WHERE e.stream = s.stream)"
        )
        assert found.execute(query).fetchone()[0] == 8


def test_a_newer_model_answers_without_a_dropped_request(tracers, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tracers(), folder)
    served = Served(
        str(folder), f"sqlite:///{tmp_path / 'log.db'}", tmp_path, ("--override", OVERRIDE)
    ).start()

    async def keep_asking(name: str, models: list, ended: asyncio.Event) -> None:
        client = Client(served.port)
        while not ended.is_set():
            status, reply = await client.post("/v1/interactions", _body(name, "1"))
            assert status == 200
            models.append(reply["model"])
        client.close()

    async def run() -> list[str]:
        models: list[str] = []
        ended = asyncio.Event()
        asking = [asyncio.create_task(keep_asking(f"s{i}", models, ended)) for i in range(4)]
        while len(models) < len(asking):
            assert not any(task.done() for task in asking)
            await asyncio.sleep(0.01)
        for signalled, seed in ((True, 1), (False, 0)):
            seen = len(models)
            shutil.copy(tracers(seed=seed) / "model.safetensors", folder / "new")
            (folder / "new").replace(folder / "model.safetensors")
            if signalled:
                os.kill(served.process.pid, signal.SIGHUP)
            else:
                client = Client(served.port)
                assert (await client.send("POST", "/v1/reload", b"", None))[1]["changed"]
                client.close()
            until = time.monotonic() + PATIENCE
            while models[-1] == models[seen - 1]:
                assert time.monotonic() < until
                await asyncio.sleep(0.05)
        ended.set()
        await asyncio.gather(*asking)
        return list(dict.fromkeys(models))

    assert len(asyncio.run(run())) == 2
    status, said = served.stop()
    assert status == 0, said
    with closing(sqlite3.connect(tmp_path / "log.db")) as found:
        openings = [json.loads(what) for (what,) in found.execute("SELECT what FROM openings")]
    assert len(openings) == 3
    assert all(one["override"] == OVERRIDE for one in openings)


def _always(_name, _last, _events):
    return None


def _one(name: str, key: str | None = None, digest: str = "", *, count: int = 1) -> Append:
    return Append(name, tuple(Event(None, f"{{}}{i}") for i in range(count)), key, digest)


@pytest.fixture
def url(request, tmp_path):
    return f"sqlite:///{tmp_path / 'log.db'}"


def test_a_key_appends_once(url):
    store = Store(url, "knowledge_tracing", _always)
    group = [_one("a", "k", "1", count=2), _one("a", "k", "1", count=2), _one("b", "k", "2")]
    assert store.append(group)[:2] == [
        Appended(1, 1, 2),
        Appended(1, 1, 2, replayed=True),
    ]
    refused = store.append([_one("b", "k", "2"), _one("b", "l", "2")])
    assert isinstance(refused[0], Refused)
    assert refused[0].status == 409
    assert refused[1] == Appended(2, 1, 1)
    store.close()
    again = Store(url, "knowledge_tracing", _always)
    assert again.append([_one("a", "k", "1", count=2)]) == [Appended(1, 1, 2, replayed=True)]
    assert again.count() == (2, 3)
    again.close()


def test_a_group_that_fails_leaves_nothing_and_the_next_one_succeeds(url, monkeypatch):
    store = Store(url, "knowledge_tracing", _always)
    store.append([_one("a")])
    store._writer.exec_driver_sql(
        "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.body = '{}1'"
        " BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    store._writer.commit()
    from sqlalchemy.exc import SQLAlchemyError

    with pytest.raises(SQLAlchemyError, match="disk full"):
        store.append([_one("a"), _one("new", "k", "1", count=2)])
    assert store.count() == (1, 1)
    assert store.append([_one("a"), _one("new", "k", "1")]) == [
        Appended(1, 2, 1),
        Appended(2, 1, 1),
    ]
    store.close()


def test_a_fault_inside_is_said_to_those_who_wait_and_ends_there(tracers, serving, monkeypatch):
    async def run():
        async with serving(tracers()) as (service, client):

            def broken(*_):
                raise ZeroDivisionError

            found = []
            for owner, name in (
                (service.minds, "rule"),
                (service.store, "_decide"),
                (service.minds.voice.memory, "run"),
                (service.minds, "handle"),
            ):
                with monkeypatch.context() as patch:
                    patch.setattr(owner, name, broken)
                    post = client.post("/v1/interactions", json=_body("a", "1"))
                    found.append((await asyncio.wait_for(post, 300)).status_code)
            reply = await client.post("/v1/interactions", json=_body("a", "1"))
            return found, reply.json()

    found, reply = asyncio.run(run())
    assert found == [409, 503, 500, 500]
    # Two of those four were in the log before the model failed, and are not forgotten.
    assert (reply["first"], reply["n_answers"]) == (3, 3)
