"""Audit a model from the command line."""

from pathlib import Path
from typing import Annotated

import typer

from kt_forecast.cli.app import app, print_table, say
from kt_forecast.errors import InputError


@app.command()
def audit(
    target: Annotated[
        str | None, typer.Argument(help="FILE.py:build; build() returns model and batch.")
    ] = None,
    contract: Annotated[
        str,
        typer.Option(
            "--contract",
            help="causal, strict, kt or rows_independent; build() may return another one.",
        ),
    ] = "causal",
    json: Annotated[Path | None, typer.Option("--json", help="JSON file to write.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="HTML file to write.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="JUnit file to write.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail (1) unless proved without conditions.")
    ] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Audit the catalogue of planted leaks.")
    ] = False,
) -> None:
    """Prove that a model does not use the future, or show where: 0 proved, 1 leak, 3 unproven.

    \b
    Examples:
      kt-forecast audit model.py:build --contract causal --html audit.html
      kt-forecast audit --self-test

    \f

    Raises:
        InputError: the file cannot be used.
        Exit: always, with the verdict's code.
    """
    from kt_forecast.audit import ContractError
    from kt_forecast.audit import command as auditor

    try:
        if self_test:
            header, *rows = auditor.self_test()
            return print_table("Planted leaks and honest models", header, rows)
        if target is None:
            raise InputError("audit: accepted is FILE.py:FUNCTION, or --self-test")
        report = auditor.audit_file(target, contract)
    except ContractError as error:
        raise InputError(str(error)) from None
    say(report.text())
    for place, text in ((json, report.to_json), (html, report.to_html), (junit, report.to_junit)):
        if place is not None:
            place.write_text(text(), encoding="utf-8")
            say(f"wrote {place}")
    raise typer.Exit(auditor.exit_code(report, strictly=strict))
