"""Does a model use information from the future? Usable on any torch model, without the rest.

A contract says, for every input element, from which moment it is known, and for every output
element, for which moment it is needed. A leak is an output that moves when only inputs known
later than needed are replaced.
"""

from kt_forecast.audit.contract import Contract, causal, clock, forecast, kt, strict
from kt_forecast.audit.replacement import audit
from kt_forecast.audit.report import Finding, LeakError, Report

__all__ = [
    "Contract",
    "Finding",
    "LeakError",
    "Report",
    "audit",
    "causal",
    "clock",
    "forecast",
    "kt",
    "strict",
]
