"""A pytest plugin: the fixture ``assert_causal`` fails a test whose model uses the future.

It stands outside of ``kt_forecast``, and imports it when a test asks, so that it costs other test
suites nothing.
"""

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

MARKER = "waive_audit"


def pytest_configure(config: pytest.Config) -> None:
    """Say what the marker means."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(reason, until): accept an unproven audit, for a reason, until a date; never a "
        "leak.",
    )


@pytest.fixture
def assert_causal(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return a check that fails on a leak, and on what is neither proved nor waived.

    The check takes what `kt_forecast.audit.audit` takes (the contract is causal by default) and
    returns the report. A marker ``waive_audit(reason="...", until="2030-01-31")`` accepts an
    unproven verdict until that day, on a test, a class or a module. Verdict, conditions and waiver
    are properties of the test, which ``--junitxml`` writes.
    """

    def check(model: Any, batch: Any, contract: Any = None, **options: Any) -> Any:  # noqa: ANN401
        from kt_forecast.audit import audit, causal

        report = audit(model, batch, contract or causal(), **options)
        told = request.node.user_properties
        told.append(("audit", report.verdict))
        told += [("audit condition", condition) for condition in report.conditions]
        report.raise_for_leaks()
        if report.verdict == "unproven":
            reason, until = _held(request.node.get_closest_marker(MARKER), report.summary())
            told.append(("audit waived", f"until {until}: {reason}"))
        return report

    return check


def _held(marker: pytest.Mark | None, summary: str) -> tuple[str, date]:
    """Return reason and last day of a waiver; fail unless it has both and has not run out."""
    if marker is None:
        pytest.fail(summary, pytrace=False)
    waiver = dict(zip(("reason", "until"), marker.args, strict=False)) | marker.kwargs
    reason = str(waiver.get("reason") or "").strip()
    try:
        until = date.fromisoformat(str(waiver.get("until")))
    except ValueError:
        reason = ""
    if not reason:
        pytest.fail(f"{MARKER} needs a reason and a day, until=YYYY-MM-DD", pytrace=False)
    if until < date.today():
        pytest.fail(f"the waiver of {until} ({reason}) has run out: {summary}", pytrace=False)
    return reason, until
