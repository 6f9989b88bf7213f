"""The web application of one service."""

import asyncio
import hashlib
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse, JSONResponse

from kt_forecast.errors import InputError
from kt_forecast.serving import wire
from kt_forecast.serving.guard import Guard
from kt_forecast.serving.metrics import Metrics
from kt_forecast.serving.models import TRACING
from kt_forecast.serving.page import render, render_api
from kt_forecast.serving.service import Conflict, Service, Unavailable
from kt_forecast.serving.threads import log

KEY = "Idempotency-Key"

Told = TypeVar("Told", bound=wire.Wire)

Refusals = dict[int | str, dict[str, Any]]

REFUSALS: Refusals = {
    400: {"model": wire.Refusal, "description": "The body is not JSON."},
    401: {"model": wire.Refusal, "description": "The API key is missing or not known."},
    409: {"model": wire.Refusal, "description": "The request contradicts what is known."},
    413: {"model": wire.Refusal, "description": "The request is too large."},
    422: {"model": wire.Refusal, "description": "The request cannot be used."},
    429: {"model": wire.Refusal, "description": "Too many requests of one caller."},
    503: {"model": wire.Refusal, "description": "The service cannot do it now."},
}


def build(service: Service) -> Any:  # noqa: ANN401 - an ASGI application
    """Return the application of a service, behind its guard."""
    metrics = Metrics()
    service.groups = metrics.group
    metrics.gauge("kt_forecast_live", "States in memory.", lambda: float(len(service.minds)))
    metrics.gauge("kt_forecast_live_bytes", "Their size.", lambda: float(service.minds.size))
    for name in ("loaded", "rebuilt", "evicted"):
        value = lambda name=name: float(getattr(service.minds, name))  # noqa: E731
        metrics.gauge(f"kt_forecast_states_{name}", f"States {name} since the start.", value)
    app = FastAPI(
        title=f"kt_forecast: {service.loaded.name}",
        version=version("kt-forecast"),
        description=__doc__ or "",
        lifespan=_lifespan(service),
        separate_input_output_schemas=False,
        docs_url=None,
        redoc_url=None,
    )
    _add_errors(app)
    _add_common(app, service, metrics)
    part = "app_tracing" if service.loaded.task == TRACING else "app_forecasting"
    import_module(f"kt_forecast.serving.{part}").add(app, service)
    _document(app)
    return Guard(app, service.settings, metrics)


def digest(*parts: Any) -> str:  # noqa: ANN401 - anything JSON can hold
    """Return the hash of what a request asks for, however its JSON was spelled."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def documented(body: type[wire.Wire], *, keyed: bool = False) -> dict[str, Any]:
    """Return what the page of the API says of a request that is read by `told`."""
    schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    found: dict[str, Any] = {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
    }
    if keyed:
        name = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": wire.PLAIN}
        what = "The caller's name of this request: the same key is carried out once."
        found["parameters"] = [{"name": KEY, "in": "header", "description": what, "schema": name}]
    return found


async def told(request: Request, body: type[Told]) -> Told:
    """Return the body of a request, checked.

    FastAPI's own way of it costs as much as the model's answer; the page of the API is told of
    body and key by `documented`.

    Raises:
        RequestValidationError: it is not what it should be.
    """
    try:
        return body.model_validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None


def key_of(request: Request) -> str | None:
    """Return the idempotency key of a request; None where it has none.

    Raises:
        InputError: it is no name.
    """
    key = request.headers.get(KEY)
    if key is not None and not wire.is_name(key):
        raise InputError(f"{KEY} is {key[:200]!r}; accepted are 1 to 200 plain characters")
    return key


def said(reply: dict[str, Any]) -> Response:
    """Return a reply that was made here and need not be checked."""
    text = json.dumps(reply, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Response(text, media_type="application/json")


def refuse_many(count: int, most: int, what: str) -> None:
    """Refuse a list that is too long.

    Raises:
        InputError: it is.
    """
    if count > most:
        raise InputError(f"{count} {what} are too many for one request; accepted are {most}")


def model_facts(service: Service) -> dict[str, Any]:
    """Return what a caller may know of the model."""
    return {**service.loaded.facts(), **service.minds.facts()}


def _document(app: FastAPI) -> None:
    """Put the bodies that `told` reads among the schemas of the API's page."""
    plain = app.openapi
    bodies = [(body, "validation") for body in wire.BODIES]
    _, told_of = models_json_schema(bodies, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]

    def openapi() -> dict[str, Any]:
        found = plain()
        known = found.setdefault("components", {}).setdefault("schemas", {})
        for name, schema in told_of["$defs"].items():
            known.setdefault(name, schema)
        return found

    app.openapi = openapi  # type: ignore[method-assign]


def _lifespan(service: Service) -> Any:  # noqa: ANN401 - what FastAPI takes
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        loop, tasks = asyncio.get_running_loop(), set()

        def again() -> None:
            task = loop.create_task(reload(service))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        # Only the main thread of a system that knows the signal hears it.
        with suppress(NotImplementedError, RuntimeError, ValueError, AttributeError):
            loop.add_signal_handler(signal.SIGHUP, again)
        watch = asyncio.create_task(_watch(service))
        yield
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        await asyncio.to_thread(service.stop)

    return lifespan


async def _watch(service: Service) -> None:
    """Look for a new version of an alias now and then."""
    while service.settings.poll > 0 and service.origin.is_registered:
        await asyncio.sleep(service.settings.poll)
        await reload(service, only_newer=True)


async def reload(service: Service, *, only_newer: bool = False) -> None:
    """Load the model again; one that cannot be used leaves the one before at work."""
    try:
        if await service.reload(only_newer=only_newer):
            log.warning("another model answers now: %s", json.dumps(service.loaded.facts()))
    except InputError as error:
        log.error("the model stays: %s", error)
    except Exception:  # noqa: BLE001 - a registry that is away must not end the service
        log.exception("the model stays")


def _add_errors(app: FastAPI) -> None:
    statuses = {InputError: 422, Conflict: 409, Unavailable: 503}

    async def sentence(_request: Request, error: Exception) -> Response:
        status = next(s for kind, s in statuses.items() if isinstance(error, kind))
        headers = {"Retry-After": "1"} if status == 503 else None
        return JSONResponse({"detail": str(error)}, status, headers)

    for kind in statuses:
        app.add_exception_handler(kind, sentence)

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        text = f"{where}: {first['msg']}".encode("utf-8", "replace").decode()
        return JSONResponse({"detail": text}, 422)

    app.add_exception_handler(RequestValidationError, invalid)


def _add_common(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/health", tags=["service"])
    async def health() -> wire.Health:
        """Say that the process is alive."""
        return wire.Health(status="ok")

    @app.get("/ready", tags=["service"], responses={503: {"model": wire.Health}})
    async def ready() -> Response:
        """Say whether requests are answered."""
        reason = service.failure if service.ready else "the service is stopping"
        fine = service.ready and not service.failure
        reply = {"status": "ready" if fine else "not ready", "reason": reason}
        return JSONResponse(reply, 200 if fine else 503)

    @app.get("/metrics", tags=["service"], response_class=Response)
    async def numbers() -> Response:
        """Return numbers for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        """Show students or series to a person."""
        facts = service.loaded.facts()
        text, headers = render(facts, tracing=facts["task"] == TRACING)
        return HTMLResponse(text, headers=headers)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """Show the API to a person, from the document that programs read."""
        text, headers = render_api(app.openapi(), service.loaded.name)
        return HTMLResponse(text, headers=headers)

    refusals: Refusals = {s: REFUSALS[s] for s in (401, 429)}

    @app.get("/v1/model", tags=["service"], responses=refusals)
    async def model() -> wire.Model:
        """Say what answers, and what its audit says."""
        return wire.Model(**model_facts(service))

    @app.post("/v1/reload", tags=["service"], responses={**refusals, 422: REFUSALS[422]})
    async def again() -> wire.Reloaded:
        """Load the model again: the newest version of an alias, or what the folder holds now."""
        changed = await service.reload()
        return wire.Reloaded(changed=changed, model=wire.Model(**model_facts(service)))
