"""Routes of a service that traces students."""

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response

from kt_forecast.errors import InputError
from kt_forecast.serving import wire
from kt_forecast.serving.app import (
    REFUSALS,
    Refusals,
    digest,
    documented,
    key_of,
    refuse_many,
    said,
    told,
)
from kt_forecast.serving.service import Service
from kt_forecast.serving.store import Append
from kt_forecast.serving.tracing import Answer, Ask, Asked, Look, Said, Seen, Take

STUDENTS = 50
"""Students that a list names where nobody says how many."""


def add(app: FastAPI, service: Service) -> None:
    """Add the routes of students."""
    most = service.settings.items

    @app.post(
        "/v1/interactions",
        tags=["students"],
        response_model=wire.Taken,
        responses=REFUSALS,
        openapi_extra=documented(wire.Interactions, keyed=True),
    )
    async def interactions(request: Request) -> Response:
        """Append answers of a student, all or none, and predict the next questions.

        What is answered is on the disk. A request that is sent again with the same
        `Idempotency-Key` appends nothing and is answered as before; the same key with another body
        is a conflict. Answers of equal time are one event, whose questions see none of each
        other's responses; an answer before the last one's time is a conflict.

        Raises:
            InputError: the request is too long, or lacks what the model reads.
        """
        body, key = await told(request, wire.Interactions), key_of(request)
        refuse_many(len(body.answers), most, "answers")
        refuse_many(len(body.next or ()), most, "questions")
        answers = tuple(
            Answer(a.question, tuple(a.concepts), a.time, a.response, a.extras)
            for a in body.answers
        )
        voice = service.voice
        if voice.fitted.vocabulary.extras and (missing := voice.missing(answers)):
            raise InputError(
                f"extras lack {missing!r}, which the model reads; accepted is a number"
            )
        asked = _next(answers[-1]) if body.next is None else _asked(body.next)
        events = tuple(answer.event() for answer in answers)
        name = body.student
        append = Append(name, events, key, "" if key is None else _digest(name, events, body))
        done: Said = await service.append(
            append, lambda ticket, appended: Take(ticket, name, appended, answers, asked)
        )
        reply = _predictions(service, name, asked, done)
        assert done.appended is not None  # noqa: S101
        reply |= {"first": done.appended.first, "replayed": done.appended.replayed}
        return said(reply)

    @app.post(
        "/v1/predict",
        tags=["students"],
        response_model=wire.Predictions,
        responses={s: r for s, r in REFUSALS.items() if s != 409},
        openapi_extra=documented(wire.Predict),
    )
    async def predict(request: Request) -> Response:
        """Predict how a student would answer questions now; nothing is remembered of it."""
        body = await told(request, wire.Predict)
        refuse_many(len(body.questions), most, "questions")
        asked = tuple(Asked(q.question, tuple(q.concepts), q.time) for q in body.questions)
        done: Said = await service.ask(lambda ticket: Ask(ticket, body.student, asked))
        return said(_predictions(service, body.student, asked, done))

    reading: Refusals = {s: REFUSALS[s] for s in (401, 422, 429, 503)}

    @app.get(
        "/v1/students/{student:path}/mastery",
        tags=["students"],
        response_model=wire.Mastery,
        responses=reading,
    )
    async def mastery(
        student: Annotated[wire.Name, Path()],
        concept: Annotated[
            list[wire.Name],
            Query(description="Concepts to tell of; by default those of the answers looked at."),
        ] = [],  # noqa: B006 - FastAPI copies it
        every: Annotated[  # noqa: FBT002 - a flag of the address
            bool, Query(description="Tell of every concept that the model knows.")
        ] = False,
        last: Annotated[
            int, Query(ge=0, le=wire.MANY, description="Answers to look back on.")
        ] = 50,
    ) -> Response:
        """Say what a student masters now, and what each of the last answers changed.

        Told is the probability of a correct answer to an unknown question on each concept; of a
        model that knows no concepts, to each question.
        """
        refuse_many(len(concept), most, "concepts")
        refuse_many(last, service.settings.history, "answers to look back on")
        seen: Seen = await service.ask(
            lambda ticket: Look(ticket, student, tuple(concept), every, last)
        )
        return said(_mastery(service, student, seen))

    @app.get("/v1/students", tags=["students"], response_model=wire.Streams, responses=reading)
    async def students(
        contains: Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = STUDENTS,
    ) -> Response:
        """Name students that have answered, and how many answers each has."""
        found = await asyncio.to_thread(service.store.names, contains, limit)
        return said({"names": [{"name": name, "events": count} for name, count in found]})


def _digest(name: str, events: Any, body: wire.Interactions) -> str:  # noqa: ANN401
    asked = None if body.next is None else [[q.question, q.concepts] for q in body.next]
    return digest(name, [[event.time, event.body] for event in events], asked)


def _asked(questions: list[wire.Question]) -> tuple[Asked, ...]:
    return tuple(Asked(q.question, tuple(q.concepts)) for q in questions)


def _next(answer: Answer) -> tuple[Asked, ...]:
    """Return what is predicted where nothing is asked for."""
    if answer.concepts:
        return tuple(Asked(None, (name,)) for name in answer.concepts)
    return (Asked(answer.question),)


def _predictions(
    service: Service, student: str, asked: tuple[Asked, ...], done: Said
) -> dict[str, Any]:
    voice = service.voice
    return {
        "student": student,
        "n_answers": done.seq,
        "model": voice.short,
        "predictions": [
            {
                "question": one.question,
                "concepts": list(one.concepts),
                "p_correct": chance,
                "unknown": voice.unknown(one),
            }
            for one, chance in zip(asked, done.chances, strict=True)
        ],
    }


def _mastery(service: Service, student: str, seen: Seen) -> dict[str, Any]:
    voice = service.voice
    first = seen.seq - len(seen.answers) + 1
    changes = zip(seen.answers, seen.chances, seen.chances[1:], strict=False)
    return {
        "student": student,
        "n_answers": seen.seq,
        "model": voice.short,
        "now": [
            {
                "name": one.concepts[0] if one.concepts else one.question,
                "p_correct": chance,
                "unknown": bool(voice.unknown(one)),
            }
            for one, chance in zip(seen.asked, seen.chances[-1], strict=True)
        ],
        "over_time": [
            {
                "place": first + i,
                "question": answer.question,
                "concepts": list(answer.concepts),
                "response": answer.response,
                "time": answer.time,
                "p_correct": after,
                "change": [b - a for a, b in zip(before, after, strict=True)],
            }
            for i, (answer, before, after) in enumerate(changes)
        ],
    }
