"""What there is to choose from."""

from pathlib import Path
from typing import Annotated

import typer

from kt_forecast.cli.app import app, print_table


@app.command()
def zoo(
    name: Annotated[str | None, typer.Argument(help="One of them, to read all of it.")] = None,
    causality: Annotated[
        Path | None,
        typer.Option(
            help="Audit each published system, or the one named, as it is and as published, and "
            "write which may be used for knowledge tracing: a .html or .md file.",
        ),
    ] = None,
) -> None:
    """List everything that --system takes, with what it promises; or show one of them.

    \b
    Examples:
      kt-forecast zoo
      kt-forecast zoo gpt
      kt-forecast zoo --causality systems.html
    """
    from kt_forecast.catalogue import catalogue, entry

    if causality is not None:
        _audit(name, causality)
        return
    if name is None:
        columns = ("system", "family", "for", "promises", "paper")
        print_table("What --system takes", columns, catalogue())
        return
    found = entry(name)
    for part in ("page", "serves", "promises", "paper", "url"):
        if found[part]:
            said = f"for {found[part]}" if part == "serves" else found[part]
            print(said + ("\n" if part == "page" else ""))
    print_table(f"Settings of {name}", ("setting", "default", "search space"), found["settings"])


def _audit(name: str | None, path: Path) -> None:
    from kt_forecast.studies.causality import entries, writable, written

    writable(path)
    written(entries(None if name is None else [name]), path)
    print(f"written: {path}")
