"""A service that follows an alias of the registry."""

import asyncio
import time

import pytest

from kt_forecast.errors import InputError
from kt_forecast.serving.models import Origin
from kt_forecast.tracer.fitting import Fitted
from kt_forecast.tracking import Tracker
from kt_forecast.tracking.registry import promote
from tests.serving.clients import Client, Served

PATIENCE = 120


def _promoted(folder, root, verdict: str, override: str = "") -> str:
    """Register a model as the champion, as the run that trained it would."""
    fitted = Fitted.load(folder)
    fitted.facts["verdict"] = verdict
    fitted.save(root / "saved")
    with Tracker("test", "run", root=root) as tracker:
        tracker.verdict(verdict)
        tracker.model(root / "saved")
    return promote(tracker.id, "tracer", "champion", override=override, root=root).version


@pytest.mark.slow
def test_the_champion_is_followed_without_a_dropped_request(tracers, tmp_path):
    root = tmp_path / "mlruns"
    root.mkdir()
    with pytest.raises(InputError, match="registered"):
        Origin("tracer@champion", root).load()
    assert _promoted(tracers(), root, "proved") == "1"
    served = Served(
        "tracer@champion", f"sqlite:///{tmp_path / 'log.db'}", root, ("--poll", "0.2")
    ).start()

    async def run() -> list[tuple[str, str]]:
        client, found = Client(served.port), []
        ended = asyncio.Event()

        async def ask() -> None:
            asking = Client(served.port)
            while not ended.is_set():
                body = {"student": "a", "answers": [{"question": "1", "response": 1}]}
                status, reply = await asking.post("/v1/interactions", body)
                assert status == 200, reply
            asking.close()

        task = asyncio.create_task(ask())
        for number, seed, verdict, override in (
            ("2", 1, "proved", ""),
            # What may be registered with a reason is not served without one of its own.
            ("3", 0, "leak", "to see"),
        ):
            assert (
                await asyncio.to_thread(_promoted, tracers(seed=seed), root, verdict, override)
                == number
            )
            until = time.monotonic() + (PATIENCE if verdict == "proved" else 3)
            while time.monotonic() < until:
                _, model = await client.get("/v1/model")
                if model["number"] == number:
                    break
                await asyncio.sleep(0.1)
            found.append((model["number"], model["verdict"]))
        ended.set()
        await task
        client.close()
        return found

    try:
        assert asyncio.run(run()) == [("2", "proved"), ("2", "proved")]
    finally:
        status, said = served.stop()
    assert status == 0
    assert "its stored audit verdict is 'leak'" in said
