"""Audit a model, a pipeline, a recipe or a run from the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kt_forecast.cli.app import RUNS, Device, Runs, app, print_table, say
from kt_forecast.errors import InputError

if TYPE_CHECKING:
    from kt_forecast.audit import Report


@app.command()
def audit(
    target: Annotated[
        str | None,
        typer.Argument(
            help="FILE.py:build, which returns a model and a batch, or a function and a table;"
            " or a recipe (RECIPE.toml), or a stored run."
        ),
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
    runs: Runs = RUNS,
    device: Device = "auto",
) -> None:
    """Prove that a model does not use the future, or show where: 0 proved, 1 leak, 3 unproven.

    Of a recipe or a run audited are data, split, features, model and scoring.

    \b
    Examples:
      kt-forecast audit model.py:build --contract causal --html audit.html
      kt-forecast audit pipelines/demo.toml
      kt-forecast audit demo --json audit.json
      kt-forecast audit --self-test

    \f

    Raises:
        InputError: the file, the recipe or the run cannot be used.
        Exit: always, with the verdict's code.
    """
    from kt_forecast.audit import ContractError
    from kt_forecast.audit import command as auditor

    try:
        if self_test:
            _self_test()
        if target is None:
            raise InputError("audit: accepted is FILE.py:FUNCTION, a recipe, a run, or --self-test")
        if ".py" in target:
            report = auditor.audit_file(target, contract)
            say(report.text())
        else:
            report = _whole_flow(target, runs, device)
    except ContractError as error:
        raise InputError(str(error)) from None
    for place, write in ((json, report.to_json), (html, report.to_html), (junit, report.to_junit)):
        if place is not None:
            write(place)
            say(f"wrote {place}")
    raise typer.Exit(auditor.exit_code(report, strictly=strict))


def _whole_flow(target: str, runs: Path, device: str) -> "Report":
    """Audit a stored run, else the recipe of that name, and print what was tried.

    Raises:
        InputError: there is neither.
    """
    from kt_forecast.experiment import auditing_recipe, shipped
    from kt_forecast.experiment.stored import find
    from kt_forecast.experiment.which import read_recipe

    found = None
    if not target.endswith(".toml"):
        try:
            found = find(target, runs)
        except InputError as error:
            said = str(error)
        if found is None:
            try:
                shipped(target)
            except InputError:
                raise InputError(f"{said}; nor is there a recipe of that name") from None
    if found is not None:
        say(f"auditing the run {found.name}")
        report = auditing_recipe.audit_run(target, runs, device=device)
    else:
        recipe = shipped(target)
        say(f"auditing the recipe {recipe}, its model trained for an epoch on a sample")
        report = auditing_recipe.audit_recipe(read_recipe(recipe))
    header = ("part", "check", "outcome", "detail")
    print_table(f"Audit of {target}", header, auditing_recipe.table_of(report))
    auditing_recipe.say_report(report, say)
    return report


def _self_test() -> None:
    from kt_forecast.audit.selftest import SelfTest

    test = SelfTest()
    rows = list(test.rows())
    print_table("Planted leaks and honest models", test.header, rows)
    for line in test.summary():
        say(line)
    raise typer.Exit(0 if test.passed else 1)
