"""Does a model use information from the future? Usable on any torch model, without the rest.

A contract says, for every input element, from which moment it is known, and for every output
element, for which moment it is needed. A leak is an output that depends on inputs known later
than needed. An audit follows every tensor operation, which proves that there is none, and
replaces what is known too late, which shows one.
"""

from kt_forecast.audit.auditing import STAGES, audit
from kt_forecast.audit.contract import (
    Contract,
    ContractError,
    causal,
    clock,
    forecast,
    kt,
    packed,
    rows_independent,
    streaming,
    strict,
)
from kt_forecast.audit.examples import CoinFlips, Counterexample
from kt_forecast.audit.pipeline import audit_pipeline
from kt_forecast.audit.report import Finding, LeakError, Report, Stage

__all__ = [
    "STAGES",
    "CoinFlips",
    "Contract",
    "ContractError",
    "Counterexample",
    "Finding",
    "LeakError",
    "Report",
    "Stage",
    "audit",
    "audit_pipeline",
    "causal",
    "clock",
    "forecast",
    "kt",
    "packed",
    "rows_independent",
    "streaming",
    "strict",
]
