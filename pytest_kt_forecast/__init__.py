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
    unproven verdict until that day.
    """

    def check(model: Any, batch: Any, contract: Any = None, **options: Any) -> Any:  # noqa: ANN401
        from kt_forecast.audit import audit, causal

        report = audit(model, batch, contract or causal(), **options)
        request.node.user_properties.append(("audit", report.verdict))
        report.raise_for_leaks()
        if report.verdict == "unproven":
            _held(request.node.get_closest_marker(MARKER), report.summary())
        return report

    return check


def _held(marker: pytest.Mark | None, summary: str) -> None:
    """Fail unless a waiver with a reason has not run out."""
    if marker is None:
        pytest.fail(summary, pytrace=False)
    waiver = dict(zip(("reason", "until"), marker.args, strict=False)) | marker.kwargs
    if not waiver.get("reason") or not waiver.get("until"):
        pytest.fail(f"{MARKER} needs a reason and a day, until=YYYY-MM-DD", pytrace=False)
    if date.fromisoformat(str(waiver["until"])) < date.today():
        pytest.fail(f"the waiver of {waiver['until']} has run out: {summary}", pytrace=False)
