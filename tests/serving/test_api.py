"""Limits, keys, refusals, cold starts, metrics, and what anyone may send."""

import asyncio
import re

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from kt_forecast.errors import InputError
from kt_forecast.serving.app import build
from kt_forecast.serving.models import Origin
from kt_forecast.serving.run import KEYS, api_keys
from kt_forecast.serving.service import Service
from kt_forecast.serving.settings import Settings
from tests.serving.conftest import OVERRIDE

ANSWER = {"question": "12", "concepts": ["3"], "response": 1}


def _post(student: str = "a", **more) -> dict:
    return {"student": student, "answers": [ANSWER], **more}


def _run(serving, folder, work, **options):
    async def run():
        async with serving(folder, **options) as (service, client):
            return await work(service, client)

    return asyncio.run(run())


def test_what_the_model_has_not_met_gets_the_cold_start_answer_and_is_said(tracers, serving):
    async def work(_service, client):
        asked = [
            {"question": "no such question", "concepts": ["3", "no such concept"]},
            {"question": None, "concepts": ["3", "other"]},
            {"question": "12", "concepts": ["3"]},
            {},
        ]
        body = {"student": "new", "questions": asked}
        return (await client.post("/v1/predict", json=body)).json()

    reply = _run(serving, tracers(), work)
    unknown, same, known, nothing = reply["predictions"]
    assert reply["n_answers"] == 0
    assert unknown["unknown"] == ["no such question", "no such concept"]
    assert known["unknown"] == nothing["unknown"] == []
    assert unknown["p_correct"] == pytest.approx(same["p_correct"], abs=1e-6)
    assert unknown["p_correct"] != known["p_correct"]


def test_by_default_the_concepts_of_the_last_answer_are_predicted(tracers, serving):
    async def work(_service, client):
        first = await client.post("/v1/interactions", json=_post())
        bare = {"student": "b", "answers": [{"question": "12", "response": 0}]}
        second = await client.post("/v1/interactions", json=bare)
        none = await client.post("/v1/interactions", json=_post("c", next=[]))
        return [reply.json()["predictions"] for reply in (first, second, none)]

    of_concept, of_question, none = _run(serving, tracers(), work)
    assert [(p["question"], p["concepts"]) for p in of_concept] == [(None, ["3"])]
    assert [(p["question"], p["concepts"]) for p in of_question] == [("12", [])]
    assert none == []


def test_a_key_answers_again_what_it_answered_and_conflicts_with_another_body(tracers, serving):
    async def work(_service, client):
        headers = {"Idempotency-Key": "one"}
        found = [await client.post("/v1/interactions", json=_post(), headers=headers)]
        found.append(await client.post("/v1/interactions", json=_post(), headers=headers))
        await client.post("/v1/interactions", json=_post())
        found.append(await client.post("/v1/interactions", json=_post(), headers=headers))
        found.append(await client.post("/v1/interactions", json=_post("b"), headers=headers))
        both = [
            client.post("/v1/interactions", json=_post("c"), headers={"Idempotency-Key": "two"})
        ]
        both.append(
            client.post("/v1/interactions", json=_post("c"), headers={"Idempotency-Key": "two"})
        )
        return found, [reply.json() for reply in await asyncio.gather(*both)]

    found, both = _run(serving, tracers(), work)
    first, again, later = (reply.json() for reply in found[:3])
    assert [reply.status_code for reply in found] == [200, 200, 200, 409]
    assert (first["replayed"], again["replayed"], later["replayed"]) == (False, True, True)
    for reply in (again, later):
        assert (reply["first"], reply["n_answers"]) == (1, 1)
        p_correct = reply["predictions"][0]["p_correct"]
        assert p_correct == pytest.approx(first["predictions"][0]["p_correct"], abs=1e-5)
    assert sorted(reply["replayed"] for reply in both) == [False, True]
    assert {reply["n_answers"] for reply in both} == {1}


def test_limits(tracers, serving):
    async def work(_service, client):
        large = await client.post("/v1/interactions", content=b" " * 3000)

        async def chunks():
            for _ in range(30):
                yield b" " * 100

        chunked = await client.post("/v1/interactions", content=chunks())
        many = await client.post("/v1/interactions", json={**_post(), "answers": [ANSWER] * 11})
        long = await client.post("/v1/interactions", json=_post("x" * 201))
        return large, chunked, many, long

    replies = _run(serving, tracers(), work, body=2000, items=10)
    assert [reply.status_code for reply in replies] == [413, 413, 422, 422]
    assert all(reply.json()["detail"] for reply in replies)


def test_a_caller_that_asks_too_often_waits(tracers, serving):
    async def work(_service, client):
        replies = [await client.get("/v1/model") for _ in range(5)]
        return replies, await client.get("/health")

    replies, health = _run(serving, tracers(), work, rate=0.001, burst=3)
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429, 429]
    assert int(replies[-1].headers["retry-after"]) > 1
    assert health.status_code == 200


def test_too_many_that_wait_are_told_to_come_again(tracers, serving):
    async def work(service, client):
        reply = await client.post("/v1/interactions", json=_post())
        return reply, service.store.count()

    reply, count = _run(serving, tracers(), work, pending=0)
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"
    assert count == (0, 0)


def test_keys_open_the_api_and_nothing_else_does(tracers, serving):
    async def work(_service, client):
        none = await client.get("/v1/model")
        wrong = await client.get("/v1/model", headers={"Authorization": "Bearer secre"})
        right = await client.get("/v1/model", headers={"Authorization": "Bearer secret"})
        other = await client.get("/v1/model", headers={"X-API-Key": "second"})
        page = await client.get("/health")
        return none, wrong, right, other, page

    replies = _run(serving, tracers(), work, keys=("secret", "second"))
    assert [reply.status_code for reply in replies] == [401, 401, 200, 200, 200]


def test_keys_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n", "utf-8")
    assert api_keys(file) == ("one", "two")
    monkeypatch.setenv(KEYS, "three,four")
    assert api_keys(None) == ("three", "four")
    file.write_text("\n", "utf-8")
    with pytest.raises(InputError, match="holds no key"):
        api_keys(file)
    with pytest.raises(InputError, match="cannot be read"):
        api_keys(tmp_path / "none")


def test_health_readiness_and_numbers(tracers, serving):
    async def work(service, client):
        await client.post("/v1/interactions", json=_post())
        text = (await client.get("/metrics")).text
        ready = await client.get("/ready")
        service.failure = "disk full"
        broken = await client.get("/ready")
        service.failure = ""
        return text, ready, broken, await client.get("/openapi.json"), await client.get("/docs")

    text, ready, broken, openapi, docs = _run(serving, tracers(), work)
    line = 'kt_forecast_requests_total{method="POST",path="/v1/interactions",status="200"} 1.0'
    assert line in text
    assert "kt_forecast_live 1.0" in text
    assert (ready.status_code, broken.status_code) == (200, 503)
    assert broken.json()["reason"] == "disk full"
    assert "/v1/interactions" in openapi.json()["paths"]
    assert docs.status_code == 200
    named = set(re.findall(r"<code>(\w+) (/[^<]*)</code>", docs.text))
    paths = openapi.json()["paths"]
    assert named == {(m.upper(), path) for path, methods in paths.items() for m in methods}
    for schema in openapi.json()["components"]["schemas"]:
        assert f'id="{schema}"' in docs.text
    assert "The caller&#39;s name of this request" in docs.text
    linked = re.findall(r"(?:src|href|action)=[\"']?([^\"' >]+)", docs.text)
    assert {link for link in linked if not link.startswith("#")} == {"data:,", "/openapi.json", "/"}
    assert not re.search(r"https?://|<script|@import|url\(", docs.text)
    assert "default-src 'none'" in docs.headers["Content-Security-Policy"]


@pytest.mark.parametrize("verdict", ["leak", "unproven", None])
def test_what_its_audit_does_not_allow_is_served_with_a_reason_only(
    tracers, tmp_path, serving, verdict
):
    from kt_forecast.tracer.fitting import Fitted

    fitted = Fitted.load(tracers())
    fitted.facts.pop("verdict", None)
    if verdict:
        fitted.facts["verdict"] = verdict
    fitted.save(tmp_path / "model")
    with pytest.raises(InputError, match="--override"):
        Origin(str(tmp_path / "model"), tmp_path).load()

    async def work(service, client):
        return (await client.get("/v1/model")).json(), service.store.openings()

    model, openings = _run(serving, tmp_path / "model", work)
    assert model["override"] == openings[0]["override"] == OVERRIDE
    fitted.facts["verdict"] = "proved"
    fitted.save(tmp_path / "model")
    assert Origin(str(tmp_path / "model"), tmp_path).load().override == ""


def test_a_store_serves_one_service_of_one_task(tracers, forecaster, tmp_path):
    url = f"sqlite:///{tmp_path / 'log.db'}"
    first = Service(Origin(str(tracers()), tmp_path, override=OVERRIDE), url, Settings())
    with pytest.raises(InputError, match="in use"):
        Service(Origin(str(tracers()), tmp_path, override=OVERRIDE), url, Settings())
    first.stop()
    with pytest.raises(InputError, match="holds 'knowledge_tracing'"):
        Service(Origin(str(forecaster[1]), tmp_path, override=OVERRIDE), url, Settings())
    for wrong in ("mysql://x/y", "nonsense", "sqlite://"):
        with pytest.raises(InputError, match="accepted"):
            Service(Origin(str(tracers()), tmp_path, override=OVERRIDE), wrong, Settings())


FUZZ = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    database=None,
)


def _send_anything(operation, checked: set) -> None:
    @FUZZ
    @given(operation.as_strategy())
    def every(case):
        reply = case.call()
        checked.add((operation.path, reply.status_code))
        assert reply.status_code < 500, (case.as_curl_command(), reply.text)

    every()


# Schemathesis draws some values by itself.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
@pytest.mark.parametrize("task", ["tracing", "forecasting"])
def test_nothing_anyone_sends_ends_in_an_error_of_the_service(task, tracers, forecaster, tmp_path):
    folder = tracers() if task == "tracing" else forecaster[1]
    origin = Origin(str(folder), tmp_path, override=OVERRIDE)
    service = Service(origin, f"sqlite:///{tmp_path / 'log.db'}", Settings())
    app = build(service)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    checked = set()
    try:
        for found in schema.get_all_operations():
            _send_anything(found.ok(), checked)
    finally:
        service.stop()
    answered = {path for path, status in checked if status < 300}
    assert "/v1/model" in answered
    assert len(checked) > len(answered)
