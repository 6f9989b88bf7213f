"""Answers a second and latency of a real service, through a kill; memory of many students.

A service in a process of its own, with a one-layer GPT trained on simulated students and SQLite;
clients in another process post one answer at a time, each with an idempotency key and one question
to predict, of students drawn at random. Between the parts the service is killed with kill -9 while
clients post; they post again what was not acknowledged. Prints JSON.

    python tests/benchmarks/bench_serving.py --answers 20000
"""

import argparse
import asyncio
import json
import os
import platform
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil

from kt_forecast import KnowledgeTracer
from kt_forecast.data.simulate import Simulation, simulate

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.serving.clients import Client, Served

CLIENTS = (1, 16, 64)
PATIENCE = 300
REASON = "a benchmark"


async def _client(
    port: int, name: str, counter: list[int], students: int, latency: list[float], acked: list[str]
) -> None:
    client, some = Client(port), random.Random(name)
    while counter[0] > 0:
        counter[0] -= 1
        key = f"{name}-{counter[0]}"
        student = counter[0] % students if counter[2] else some.randrange(students)
        body = {
            "student": f"s{student}",
            "answers": [
                {
                    "question": key if counter[1] else str(some.randrange(1000)),
                    "concepts": [str(some.randrange(50))],
                    "response": some.randrange(2),
                }
            ],
            "next": [
                {"question": str(some.randrange(1000)), "concepts": [str(some.randrange(50))]}
            ],
        }
        began = time.perf_counter()
        status, _ = await client.insist("/v1/interactions", body, key, time.monotonic() + PATIENCE)
        latency.append(time.perf_counter() - began)
        assert status == 200
        acked.append(key)
    client.close()


async def _load(
    port: int, part: str, clients: int, answers: int, students: int, named: bool, in_turn: bool
) -> dict:
    """Post from several clients at once; return what it took and what was acknowledged.

    Questions are ``named`` by their answer where each is to be found again; students answer
    ``in_turn``, so that each of them does, or are drawn.
    """
    latency: list[float] = []
    acked: list[str] = []
    counter = [answers, int(named), int(in_turn)]
    began = time.perf_counter()
    names = [f"{part}-{clients}-{i}" for i in range(clients)]
    await asyncio.gather(
        *(_client(port, name, counter, students, latency, acked) for name in names)
    )
    seconds = time.perf_counter() - began
    p50, p99 = (1000 * np.percentile(latency, q) for q in (50, 99))
    return {
        "clients": clients,
        "answers_per_second": round(len(acked) / seconds, 1),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "acknowledged": acked,
    }


def _posted(served: Served, part: str, clients: int, options: argparse.Namespace, **more) -> dict:
    """Run clients in a process of their own, and count what the service spends."""
    arguments = {
        "port": served.port,
        "part": part,
        "clients": clients,
        "answers": more.get("answers", options.answers),
        "students": more.get("students", options.students),
        "named": more.get("named", False),
        "in_turn": more.get("in_turn", False),
    }
    process = psutil.Process(served.process.pid)
    before = sum(process.cpu_times()[:2])
    done = subprocess.run(
        [sys.executable, __file__, "--client", json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    spent = sum(process.cpu_times()[:2]) - before
    found["cpu_ms_an_answer"] = round(1000 * spent / len(found["acknowledged"]), 3)
    return found


def _through_a_kill(served: Served, log: Path, options: argparse.Namespace) -> dict:
    """Kill the service twice while clients post; count what was lost and what doubled."""
    arguments = {
        "port": served.port,
        "part": "killed",
        "clients": 16,
        "answers": options.answers,
        "students": options.students,
        "named": True,
        "in_turn": False,
    }
    clients = subprocess.Popen(
        [sys.executable, __file__, "--client", json.dumps(arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )
    back = []
    for _ in range(2):
        time.sleep(max(1.0, options.answers / 4000))
        served.kill()
        began = time.perf_counter()
        served.start()
        back.append(round(time.perf_counter() - began, 2))
    said, _ = clients.communicate()
    acked = json.loads(said)["acknowledged"]
    with closing(sqlite3.connect(log)) as found:
        rows = found.execute("SELECT body FROM events WHERE body LIKE '%\"killed-%'").fetchall()
    logged = Counter(json.loads(body)["question"] for (body,) in rows)
    return {
        "kills": len(back),
        "seconds_until_it_listens_again": back,
        "acknowledged": len(acked),
        "lost": sum(logged[key] == 0 for key in acked),
        "doubled": sum(count - 1 for count in logged.values()),
    }


def _memory(served: Served) -> float:
    return round(psutil.Process(served.process.pid).memory_info().rss / 2**20, 1)


def _model(folder: Path) -> Path:
    table = simulate(Simulation(students=400, mean_steps=50, questions=1000, concepts=50))
    tracer = KnowledgeTracer("gpt", training={"epochs": 1}, seed=0)
    tracer.fit(table)
    tracer.save(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=20_000, help="of each part")
    parser.add_argument("--students", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=100_000, help="students of the memory part")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        told = json.loads(options.client)
        print(json.dumps(asyncio.run(_load(**told))))
        return
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        log = home / "log.db"
        served = Served(
            str(_model(home / "model")), f"sqlite:///{log}", home, ("--override", REASON)
        ).start()
        found: dict = {"rss_mib_at_start": _memory(served)}
        found["before"] = [_posted(served, "before", n, options) for n in CLIENTS]
        found["kill"] = _through_a_kill(served, log, options)
        found["after"] = [_posted(served, "after", n, options) for n in CLIENTS]
        found["rss_mib"] = _memory(served)
        count = options.many
        _posted(served, "many", 64, options, answers=2 * count, students=count, in_turn=True)
        found["rss_mib_after_many_students"] = _memory(served)
        with closing(sqlite3.connect(log)) as store:
            found["students"] = store.execute("SELECT count(*) FROM streams").fetchone()[0]
        found["log_mib"] = round(log.stat().st_size / 2**20, 1)
        served.stop(within=120)
    for part in (*found["before"], *found["after"]):
        part["acknowledged"] = len(part["acknowledged"])
    found["machine"] = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
