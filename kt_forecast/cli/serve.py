"""A model that answers live."""

from pathlib import Path
from typing import Annotated

import typer

from kt_forecast.cli.app import RUNS, Device, Runs, app
from kt_forecast.errors import InputError


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="A run, a folder of a saved model, or NAME@ALIAS.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on.")] = 8000,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="URL",
            help="Log and states: sqlite:///FILE.db or postgresql://...; else a file among the"
            " runs.",
        ),
    ] = None,
    override: Annotated[
        str,
        typer.Option(
            "--override", metavar="REASON", help="Serve what its audit does not allow; recorded."
        ),
    ] = "",
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", help="File of accepted keys, one a line; else KT_FORECAST_API_KEYS."
        ),
    ] = None,
    live: Annotated[
        int, typer.Option("--live", help="Students or series whose state stays in memory.", min=1)
    ] = 10_000,
    rate: Annotated[
        float, typer.Option("--rate", help="Requests a second of one caller; 0 for any.", min=0)
    ] = 0.0,
    burst: Annotated[
        int, typer.Option("--burst", help="Requests of one caller at once under --rate.", min=1)
    ] = 100,
    max_body: Annotated[
        int, typer.Option("--max-body", help="Bytes of a request, at most.", min=1)
    ] = 1 << 20,
    max_items: Annotated[
        int, typer.Option("--max-items", help="Answers or questions of a request.", min=1)
    ] = 1000,
    poll: Annotated[
        float,
        typer.Option("--poll", help="Seconds between looks at the alias; 0 for none.", min=0),
    ] = 30.0,
    separate: Annotated[
        bool,
        typer.Option("--separate", help="Answers of equal time are no bundle: each sees the last."),
    ] = False,
    threads: Annotated[int, typer.Option("--threads", help="Threads of the model.", min=1)] = 1,
    runs: Runs = RUNS,
    device: Device = "cpu",
) -> None:
    """Answer live: one student's click, or one new measurement, at a time.

    \b
    Examples:
      kt-forecast serve demo
      kt-forecast serve tracer@champion --store postgresql://user@host/database --api-key-file keys

    \f

    Raises:
        InputError: the model may not be served, or what serving needs is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"serve needs {error.name}; install it with: pip install 'kt-forecast[serve]'"
        ) from None
    from kt_forecast.serving.models import Origin
    from kt_forecast.serving.run import api_keys
    from kt_forecast.serving.run import serve as run
    from kt_forecast.serving.settings import Settings

    settings = Settings(
        live=live,
        bundled=not separate,
        keys=api_keys(api_key_file),
        body=max_body,
        items=max_items,
        rate=rate,
        burst=burst,
        poll=poll,
    )
    origin = Origin(model, runs, override=override, device=device)
    url = store or f"sqlite:///{runs / 'serving' / _file(model)}"
    run(origin, url, settings, host=host, port=port, threads=threads)


def _file(model: str) -> str:
    """Return the name of a model's own log."""
    return f"{Path(model).name.replace('@', '-')}.db"
