"""What ``kt-forecast audit`` does: build a model from a file, audit it, write reports."""

import csv
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from kt_forecast.audit.auditing import audit
from kt_forecast.audit.contract import Contract, ContractError, causal, kt, rows_independent, strict
from kt_forecast.audit.pipeline import PipelineError, Rows, audit_pipeline, rows
from kt_forecast.audit.report import LEAKS, Report

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

CATALOGUE = Path(__file__).parents[2] / "tests" / "leaks"


def audit_file(target: str, contract: str) -> Report:
    """Audit what a function in a file builds.

    Args:
        target: ``FILE.py:build``; the function returns model and batch, or a function of tables
            and a table, or also a contract.
        contract: name of a preset, for a function that returns none.

    Raises:
        ContractError: the file, the function or what it returns cannot be used.
    """
    place, _, name = target.rpartition(":")
    path = Path(place)
    if not place or path.suffix != ".py" or not path.is_file():
        raise ContractError(f"{target!r}: accepted is FILE.py:FUNCTION of a file that exists")
    try:
        build = getattr(_module(path, path.stem), name)
        built = build()
    except Exception as error:
        raise ContractError(f"{target}: {type(error).__name__}: {error}") from error
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


def self_test() -> Iterator[tuple[str, ...]]:
    """Audit every planted leak and its honest twin; yield rows of a table, its header first.

    Raises:
        ContractError: the catalogue is not there.
    """
    if not (CATALOGUE / "common_checks.py").is_file():
        raise ContractError(
            "the catalogue of leaks is not part of an installed package; run the self-test from a "
            "clone of the repository, which has it in tests/leaks"
        )
    checks = _module(CATALOGUE / "common_checks.py", "common_checks")
    with (CATALOGUE / "common_checks.csv").open(newline="") as file:
        seen = {row.pop("leak"): row for row in csv.DictReader(file)}
    leaks, honest = checks.catalogue()
    yield ("model", "leaking", "honest", "enters at", "common checks that see it")
    for name in leaks:
        guilty, innocent = (audit(*checks.build(name, honest=h)) for h in (False, True))
        place = guilty.findings[0].place if guilty.findings else ""
        usual = sum(word == "seen" for word in seen.get(name, {}).values())
        common = f"{usual} of {len(seen.get(name, {}))}"
        yield (name, guilty.verdict, innocent.verdict, place, common)
    for name in honest:
        yield (name, "", audit(*checks.build(name, honest=True)).verdict, "", "")


def _module(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"audited_{name}", path)
    if spec is None or spec.loader is None:
        raise ContractError(f"{path}: accepted is a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    found: Any = sys.path
    sys.path = [str(path.parent.resolve()), *found]
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path = found
    return module
