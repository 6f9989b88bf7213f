"""Start a service and keep it up until it is told to stop."""

import gc
import logging
import os
import signal
from pathlib import Path

from kt_forecast.errors import InputError
from kt_forecast.serving.app import build
from kt_forecast.serving.models import Origin
from kt_forecast.serving.service import Service
from kt_forecast.serving.settings import Settings

KEYS = "KT_FORECAST_API_KEYS"
"""Environment variable of accepted API keys, one a line or separated by commas."""

DRAIN = 30
"""Seconds that requests under way have to end after the signal to stop."""


def serve(
    origin: Origin, store_url: str, settings: Settings, *, host: str, port: int, threads: int
) -> None:
    """Serve a model until the process is told to stop; SIGHUP loads the model again.

    Args:
        origin: where the model comes from.
        store_url: where log and states are.
        settings: the operator's.
        host: address to listen on.
        port: to listen on.
        threads: of the model.

    Raises:
        InputError: the model may not be served, or the store cannot be opened.
    """
    import torch
    import uvicorn

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    torch.set_num_threads(threads)
    service = Service(origin, store_url, settings)
    _say(service, host, port)
    # What was loaded stays: looking through it again and again would only take time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    config = uvicorn.Config(
        build(service),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN,
        timeout_keep_alive=75,
        lifespan="on",
    )
    server = uvicorn.Server(config)
    # Uvicorn raises the signals again that it has stopped for; it did all they ask.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run()


def api_keys(file: Path | None) -> tuple[str, ...]:
    """Return the accepted keys: those of a file, one a line, or of the environment.

    Raises:
        InputError: the file cannot be read or holds no key.
    """
    if file is None:
        text = os.environ.get(KEYS, "").replace(",", "\n")
    else:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--api-key-file {file}: cannot be read ({error}); accepted is a text file with one"
                " key a line"
            ) from None
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if file is not None and not keys:
        raise InputError(f"--api-key-file {file}: holds no key; accepted is one key a line")
    return keys


def _say(service: Service, host: str, port: int) -> None:
    facts = service.loaded.facts()
    number = f", version {facts['number']}" if facts["number"] else ""
    print(f"model: {facts['name']} ({facts['system']}{number})")  # noqa: T201
    word = f", served all the same: {facts['override']}" if facts["override"] else ""
    print(f"audit verdict: {facts['verdict']}{word}")  # noqa: T201
    print(f"store: {service.store.url.render_as_string()}")  # noqa: T201
    print(f"page: http://{host}:{port}/  API: http://{host}:{port}/docs", flush=True)  # noqa: T201
