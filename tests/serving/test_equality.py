"""What is answered live is what the batch form predicts on the whole history."""

import asyncio
import random

import polars as pl
import pytest

STUDENTS, ANSWERS, HALF = 5, 16, 8
CLOSE = 1e-5


def _answers(seed: int) -> list[dict]:
    """Return answers of several students as they come in: interleaved, some of equal time."""
    some = random.Random(seed)
    clock = dict.fromkeys(range(STUDENTS), 1_000)
    bundle: dict[int, set] = {student: set() for student in clock}
    rows = []
    for _ in range(STUDENTS * ANSWERS):
        student = some.randrange(STUDENTS)
        if some.random() < 0.6:
            clock[student] += some.choice([1, 900, 86_400_000])
            bundle[student] = set()
        question = some.choice([q for q in range(205) if q not in bundle[student]])
        bundle[student].add(question)
        rows.append(
            {
                "student": f"s{student}",
                # Questions from 200 on and concepts from 24 on are in no training row.
                "question": f"{question}",
                "concepts": [f"{c}" for c in some.sample(range(26), some.choice([0, 1, 1, 3]))],
                "response": some.randrange(2),
                "time": clock[student],
            }
        )
    return rows


def _expected(tracer, rows: list[dict]) -> list[float]:
    tracer = tracer.set_params(repeats="keep")
    return tracer.predict_proba(pl.DataFrame(rows))["p_correct"].to_list()


async def _live(client, rows: list[dict]) -> list[float]:
    """Predict each answer before it is given, then give it."""
    found = []
    for row in rows:
        asked = {name: row[name] for name in ("question", "concepts", "time")}
        reply = await client.post(
            "/v1/predict", json={"student": row["student"], "questions": [asked]}
        )
        assert reply.status_code == 200, reply.text
        found.append(reply.json()["predictions"][0]["p_correct"])
        answer = {name: row[name] for name in row if name != "student"}
        reply = await client.post(
            "/v1/interactions", json={"student": row["student"], "answers": [answer]}
        )
        assert reply.status_code == 200, reply.text
    return found


@pytest.mark.parametrize(
    ("system", "history"),
    [("gpt", None), ("gpt", 5), ("hourglass", None), ("dkt", None), ("logistic", None)],
)
def test_live_equals_batch_through_eviction_and_restart(tracers, serving, system, history):
    rows = _answers(seed=1)
    folder = tracers(system, history)

    async def run() -> list[float]:
        # Two of six students are in memory, the others wait in the store.
        async with serving(folder, live=2) as (service, client):
            first = await _live(client, rows[: len(rows) // 2])
            assert len(service.minds) <= 2
            assert service.minds.evicted > 0
        async with serving(folder, live=STUDENTS) as (service, client):
            rest = await _live(client, rows[len(rows) // 2 :])
            if system == "gpt" and history is None:
                assert service.minds.loaded > 0
        return first + rest

    found = asyncio.run(run())
    expected = _expected(tracers.fitted(system, history), rows)
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < CLOSE
    assert max(found) - min(found) > 100 * CLOSE


def test_many_students_in_one_pass_equal_each_alone(tracers, serving):
    rows = _answers(seed=2)
    by_student: dict[str, list[dict]] = {}
    for row in rows:
        by_student.setdefault(row["student"], []).append(row)

    async def run() -> dict[str, list[float]]:
        sizes = []
        async with serving(tracers(), live=4) as (service, client):
            service.groups = lambda name, size: sizes.append(size)
            tasks = [_live(client, some) for some in by_student.values()]
            found = await asyncio.gather(*tasks)
        assert max(sizes) > 1
        return dict(zip(by_student, found, strict=True))

    found = asyncio.run(run())
    expected = _expected(tracers.fitted(), rows)
    for row, p_correct in zip(rows, expected, strict=True):
        assert abs(found[row["student"]].pop(0) - p_correct) < CLOSE


def test_answers_of_one_student_that_wait_together_are_taken_in_order(tracers, serving):
    rows = [row for row in _answers(seed=3) if row["student"] == "s0"]

    async def run():
        async with serving(tracers()) as (_, client):
            posts = []
            for i, row in enumerate(rows):
                answer = {name: row[name] for name in row if name != "student"}
                following = rows[i + 1] if i + 1 < len(rows) else row
                asked = {name: following[name] for name in ("question", "concepts")}
                body = {"student": "s0", "answers": [answer | {"time": None}], "next": [asked]}
                posts.append(client.post("/v1/interactions", json=body))
            return [reply.json() for reply in await asyncio.gather(*posts)]

    replies = asyncio.run(run())
    assert [reply["first"] for reply in replies] == list(range(1, len(rows) + 1))
    untimed = [{k: v for k, v in row.items() if k != "time"} for row in rows]
    expected = _expected(tracers.fitted(), untimed)[1:]
    found = [reply["predictions"][0]["p_correct"] for reply in replies[:-1]]
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < CLOSE


def test_an_answer_out_of_order_is_refused_and_changes_nothing(tracers, serving):
    async def run():
        async with serving(tracers()) as (_, client):
            answer = {"question": "1", "response": 1, "time": 1000}
            await client.post("/v1/interactions", json={"student": "a", "answers": [answer]})
            early = [{**answer, "time": 2000}, {**answer, "time": 999}]
            refused = await client.post("/v1/interactions", json={"student": "a", "answers": early})
            asked = {"student": "a", "questions": [{"question": "1", "time": 999}]}
            too_early = await client.post("/v1/predict", json=asked)
            asked["questions"][0]["time"] = 1000
            now = await client.post("/v1/predict", json=asked)
            return refused, too_early, now

    refused, too_early, now = asyncio.run(run())
    assert refused.status_code == 409
    assert "order of time" in refused.json()["detail"]
    assert too_early.status_code == 422
    assert now.json()["n_answers"] == 1


def test_mastery_over_time_is_what_the_tracer_says(tracers, serving):
    rows = [row for row in _answers(seed=4) if row["student"] == "s1"]
    tracer = tracers.fitted()
    frame = pl.DataFrame(rows)
    expected = tracer.set_params(repeats="keep").mastery("s1", frame)

    async def run():
        async with serving(tracers()) as (_, client):
            for row in rows:
                answer = {name: row[name] for name in row if name != "student"}
                await client.post("/v1/interactions", json={"student": "s1", "answers": [answer]})
            return [
                (await client.get("/v1/students/s1/mastery", params={"last": last})).json()
                for last in (100, 5)
            ]

    whole, short = asyncio.run(run())
    names = [one["name"] for one in whole["now"]]
    for effect in whole["over_time"]:
        for name, p_correct, change in zip(
            names, effect["p_correct"], effect["change"], strict=True
        ):
            own = expected.filter(step=effect["place"] - 1, concept=name)["p_correct"]
            if len(own):
                assert abs(own[0] - p_correct) < CLOSE
            assert abs(change) < 1
    assert [e["place"] for e in short["over_time"]] == [e["place"] for e in whole["over_time"]][-5:]
    last = dict(zip(names, whole["over_time"][-1]["p_correct"], strict=True))
    for one in short["now"]:
        assert abs(last[one["name"]] - one["p_correct"]) < CLOSE


def test_another_model_makes_states_anew(tracers, serving):
    rows = [row for row in _answers(seed=5) if row["student"] == "s0"]

    async def run() -> list[float]:
        async with serving(tracers()) as (service, client):
            await _live(client, rows[:HALF])
            service.origin.wanted = str(tracers("dkt"))
            assert await service.reload()
            return await _live(client, rows[HALF:])

    found = asyncio.run(run())
    expected = _expected(tracers.fitted("dkt"), rows)[HALF:]
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < CLOSE
