"""Routes of a service that forecasts series."""

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response

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
from kt_forecast.serving.forecasting import Ask, Observation, Said, Take
from kt_forecast.serving.service import Service
from kt_forecast.serving.store import Append

SERIES = 50
"""Series that a list names where nobody says how many."""


def add(app: FastAPI, service: Service) -> None:
    """Add the routes of series."""
    most = service.settings.items

    @app.post(
        "/v1/observations",
        tags=["series"],
        response_model=wire.Noted,
        responses=REFUSALS,
        openapi_extra=documented(wire.Observations, keyed=True),
    )
    async def observations(request: Request) -> Response:
        """Append values of a series, all or none.

        What is answered is on the disk. A request that is sent again with the same
        `Idempotency-Key` appends nothing; the same key with another body is a conflict. Values come
        in their order, on the grid of the model's series.
        """
        body, key = await told(request, wire.Observations), key_of(request)
        refuse_many(len(body.observations), most, "observations")
        voice = service.voice
        values = voice.values(body)
        events = tuple(value.event() for value in values)
        hashed = "" if key is None else digest(body.series, [[e.time, e.body] for e in events])
        done: Said = await service.append(
            Append(body.series, events, key, hashed),
            lambda ticket, appended: Take(ticket, body.series, appended, values),
        )
        assert done.appended is not None  # noqa: S101
        return said(
            {
                "series": body.series,
                "n_observations": done.seq,
                "first": done.appended.first,
                "replayed": done.appended.replayed,
                "known": body.series in voice.fitted.number,
            }
        )

    @app.post(
        "/v1/forecast",
        tags=["series"],
        response_model=wire.Forecasts,
        responses=REFUSALS,
        openapi_extra=documented(wire.ForecastAsked),
    )
    async def forecast(request: Request) -> Response:
        """Forecast the steps after a series' last value, with calibrated intervals."""
        body = await told(request, wire.ForecastAsked)
        voice = service.voice
        voice.refuse_future(len(body.future))
        levels = tuple(body.levels) if body.levels is not None else voice.levels
        voice.refuse_levels(levels)
        done: Said = await service.ask(lambda ticket: Ask(ticket, body.series, tuple(body.future)))
        return said(_forecast(service, body.series, levels, done))

    reading: Refusals = {s: REFUSALS[s] for s in (401, 422, 429, 503)}

    @app.get("/v1/series", tags=["series"], response_model=wire.Streams, responses=reading)
    async def series(
        contains: Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = SERIES,
    ) -> Response:
        """Name series that have values, and how many each has."""
        found = await asyncio.to_thread(service.store.names, contains, limit)
        return said({"names": [{"name": name, "events": count} for name, count in found]})

    @app.get(
        "/v1/series/{series:path}/values",
        tags=["series"],
        response_model=wire.Values,
        responses=reading,
    )
    async def values(
        series: Annotated[wire.Name, Path()],
        last: Annotated[int, Query(ge=0, le=wire.MANY)] = 200,
    ) -> Response:
        """Return the last values of a series."""
        voice = service.voice

        def read() -> list[Observation]:
            head = service.store.find(series)
            if head is None:
                return []
            events = service.store.events(head.stream, max(0, head.seq - last), head.seq)
            return [Observation.of(event) for event in events]

        found = await asyncio.to_thread(read)
        stamps = [None if v.stamp is None else voice.told(v.stamp) for v in found]
        return said({"series": series, "ds": stamps, "y": [v.y for v in found]})


def _forecast(service: Service, name: str, levels: tuple[float, ...], done: Said) -> dict[str, Any]:
    voice = service.voice
    stamps = [voice.told(stamp) for stamp in done.stamps] or [None] * len(done.point)
    return {
        "series": name,
        "n_observations": done.seq,
        "model": voice.short,
        "known": name in voice.fitted.number,
        "notes": list(done.notes),
        "steps": [
            {
                "step": i + 1,
                "ds": stamp,
                "y": point,
                "intervals": [
                    {
                        "level": level,
                        "low": done.intervals[level][0][i],
                        "high": done.intervals[level][1][i],
                    }
                    for level in levels
                ],
            }
            for i, (stamp, point) in enumerate(zip(stamps, done.point, strict=True))
        ],
    }
