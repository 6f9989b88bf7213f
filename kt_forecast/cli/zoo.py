"""What there is to choose from."""

from typing import Annotated

import typer

from kt_forecast.cli.app import app, print_table


@app.command()
def zoo(
    name: Annotated[str | None, typer.Argument(help="One of them, to read all of it.")] = None,
) -> None:
    """List everything that --system takes, with what it promises; or show one of them.

    \b
    Examples:
      kt-forecast zoo
      kt-forecast zoo gpt
    """
    from kt_forecast.catalogue import catalogue, entry

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
