"""Runs cases with a time limit, and says what came out of each in one row."""

import contextlib
import importlib
import io
import logging
import random
import re
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from reach.cases import Case

from kt_forecast.audit import Report, audit

LIBRARIES = (
    "huggingface",
    "nixtla",
    "time_series_library",
    "pykt_toolkit",
    "sktime_forecasting",
    "gluonts_torch",
    "unit8_darts",
    "lucidrains",
)
"""Modules of cases, one a library or a few small ones."""

SKIPPED = ("compiled",)
"""Stages left out: compiling every model takes longer than all the rest."""

SHOWN = 2
"""Conditions or reasons to say of one model."""

LIMIT = 300
"""Seconds a case may take."""


class OutOfTimeError(BaseException):
    """A case took too long; no audit may catch this and go on."""


@dataclass(frozen=True)
class Row:
    """What came out of a case.

    Attributes:
        library: its name.
        version: of the library, or the commit of its checkout.
        model: its name, and what is done with it.
        contract: that it was audited under.
        modes: of the audit.
        expected: honest, or a leak.
        source: of that expectation.
        verdict: of the audit; ``not run`` where there is none.
        told: the finding, or the conditions of a proof, or why there is none.
        seconds: that the audit took.
        changed: what of the library had to be replaced for it to run; empty if nothing.
        open: why an honest model may go unproven; empty if it may not.
        agrees: whether the verdict is the expected one.
    """

    library: str
    version: str
    model: str
    contract: str
    modes: str
    expected: str
    source: str
    verdict: str
    told: str
    seconds: float
    changed: str
    open: str
    agrees: bool


def present() -> Iterator[tuple[ModuleType, str]]:
    """Yield modules of cases whose library is here, with its version."""
    for name in LIBRARIES:
        module = importlib.import_module(f"reach.{name}")
        with contextlib.suppress(LookupError, ImportError):
            yield module, module.version()


def absent(module: ModuleType) -> str:
    """Return why the library of a module of cases is not here; empty if it is."""
    try:
        module.version()
    except (LookupError, ImportError) as error:
        return str(error)
    return ""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Stop what takes longer."""

    def stop(*_: Any) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep libraries from logging."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def audited(case: Case) -> Report:
    """Build and audit a case, whatever it prints and warns of."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - models draw from it
    random.seed(0)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        case.context(),
        silent(),
    ):
        warnings.simplefilter("ignore")
        built = case.build()
        return audit(
            built.model,
            built.batch,
            built.contract,
            call=built.call,
            plain=built.plain,
            modes=case.modes,
            skip=SKIPPED,
        )


def row(module: ModuleType, version: str, case: Case, limit: float = LIMIT) -> Row:
    """Return what comes out of a case."""
    began = time.perf_counter()
    contract, verdict = "", "not run"
    try:
        with limited(limit):
            report = audited(case)
        contract, verdict, told = report.scope["contract"], report.verdict, tells(report)
    except OutOfTimeError:
        told = f"more than {limit:.0f} s"
    except Exception as error:  # noqa: BLE001 - the row says it
        told = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
    return Row(
        library=module.LIBRARY,
        version=version,
        model=case.name,
        contract=contract,
        modes=", ".join(case.modes),
        expected=case.expected,
        source=case.source,
        verdict=verdict,
        told=told,
        seconds=round(time.perf_counter() - began, 1),
        changed=case.changed,
        open=case.open,
        agrees=verdict in case.verdicts,
    )


FOLDERS = re.compile(r"[^\s(]*/(?=(?:models|layers|pykt|site-packages)/)(?:site-packages/)?")
"""Folders before a file of a library."""


def tells(report: Report) -> str:
    """Return the finding of a leak, the conditions of a proof, or why there is none."""
    if report.findings:
        finding = max(report.findings, key=lambda found: bool(found.op))
        place = ", ".join(part for part in (finding.module, finding.op) if part)
        said = f"{finding.input}: {finding.ticks} ticks, {place or 'no place'} ({finding.method})"
        return FOLDERS.sub("", said)
    several = list(report.reasons or report.conditions)
    more = f"; and {len(several) - SHOWN} more" if len(several) > SHOWN else ""
    return FOLDERS.sub("", "; ".join(several[:SHOWN]) + more)
