"""What ``kt-forecast audit`` does: build a model from a file, audit it, write reports."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kt_forecast.audit.auditing import audit
from kt_forecast.audit.contract import Contract, ContractError, causal, kt, rows_independent, strict
from kt_forecast.audit.pipeline import PipelineError, Rows, audit_pipeline, rows
from kt_forecast.audit.report import LEAKS, Report
from kt_forecast.audit.sources import module_of

PRESETS: dict[str, Callable[[], Contract]] = {
    "causal": causal,
    "strict": strict,
    "kt": kt,
    "rows_independent": rows_independent,
}
"""Contracts that need no more than their name; others are returned by ``build()``."""

EXITS = {"proved": 0, "conditional": 0, LEAKS: 1, "unproven": 3}
NAMED = {
    "time": ("time", "ds", "date", "timestamp", "datetime"),
    "entity": ("student", "unique_id", "user", "user_id", "entity", "id"),
    "target": ("response", "y", "target", "correct"),
}
"""Columns by which a table says its own clock, where ``build()`` returns none."""

PLAIN = ("compiled",)
"""Stages that the self-test leaves out: nothing of the catalogue waits for a real compiler."""


def audit_file(target: str, contract: str) -> Report:
    """Audit what a function in a file builds.

    Args:
        target: ``FILE.py:build``; the function returns model and batch, or a function of tables
            and a table, or also a contract.
        contract: name of a preset, for a function that returns none.

    Raises:
        ContractError: the file, the function or what it returns cannot be used.
    """
    path, name = _named(target)
    try:
        build = getattr(module_of(path, path.stem), name, None)
        built = build() if callable(build) else None
    except Exception as error:
        raise ContractError(f"{target}: {type(error).__name__}: {error}") from error
    if not callable(build):
        raise ContractError(_without_function(path, name))
    if not isinstance(built, tuple) or len(built) not in {2, 3}:
        raise ContractError(
            f"{target}: accepted is (model, batch) or (model, batch, contract); for a pipeline"
            " (function, table) or (function, table, contract)"
        )
    if _is_frame(built[1]) and callable(built[0]):
        return _pipeline(target, *built)
    if len(built) == 3:
        return audit(built[0], built[1], built[2])
    if contract not in PRESETS:
        raise ContractError(
            f"--contract {contract}: accepted are {', '.join(PRESETS)}; {name}() may return any "
            "other contract as its third value"
        )
    return audit(built[0], built[1], PRESETS[contract]())


def _named(target: str) -> tuple[Path, str]:
    """Return the file and the function that a text names.

    Raises:
        ContractError: there is no such file, or no function is named.
    """
    place, _, name = target.rpartition(":") if ":" in target else (target, "", "")
    path = Path(place)
    if path.suffix != ".py" or not path.is_file():
        what = "is no file" if not path.is_file() else "is no Python file"
        raise ContractError(
            f"{target!r}: {place!r} {what}; accepted is FILE.py:FUNCTION of a file that exists"
        )
    if not name:
        raise ContractError(_without_function(path, name))
    return path, name


def _without_function(path: Path, name: str) -> str:
    """Say that a file has no function of that name, and which ones it has."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError):
        body = []
    there = [one.name for one in body if isinstance(one, ast.FunctionDef) and one.name[0] != "_"]
    what = f"has no function {name!r}" if name else "is named without its function"
    if not there:
        return f"{path}: {what}, and defines none; accepted is FILE.py:FUNCTION of one that it has"
    listed = ", ".join(f"{path}:{one}" for one in there)
    return f"{path}: {what}; accepted {'is' if len(there) == 1 else 'are'} {listed}"


def _is_frame(value: Any) -> bool:  # noqa: ANN401
    return type(value).__name__ in {"DataFrame", "LazyFrame"}


def _pipeline(
    target: str,
    function: Callable[..., Any],
    table: Any,  # noqa: ANN401
    contract: Rows | None = None,
) -> Report:
    """Audit a function from a table to features.

    Raises:
        ContractError: the table does not say when its rows are known, or nothing can be joined.
    """
    names = list(table.collect_schema().names() if hasattr(table, "collect") else table.columns)
    if contract is None:
        found = {role: next((c for c in own if c in names), None) for role, own in NAMED.items()}
        time = found["time"]
        if time is None:
            raise ContractError(
                f"{target}: no column says when a row is known; accepted is a table with one of"
                f" {', '.join(NAMED['time'])}, or rows(time=...) as the third value returned"
            )
        contract = rows(time=time, entity=found["entity"], target=found["target"])
    try:
        return audit_pipeline(function, table, contract)
    except PipelineError as error:
        raise ContractError(f"{target}: {error}") from error


def exit_code(report: Report, *, strictly: bool) -> int:
    """Return 0 for proved or conditional, 1 for a leak, 3 for unproven.

    Args:
        report: of the audit.
        strictly: let nothing but a proof without conditions pass: all else is 1.
    """
    if strictly and report.verdict != "proved":
        return 1
    return EXITS[report.verdict]
