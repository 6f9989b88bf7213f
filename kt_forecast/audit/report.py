"""What an audit found: verdict, scope, findings; in words, as JSON, JUnit, a page, an exception."""

import json
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from torch import Tensor

from kt_forecast.audit.dependency import Link

Verdict = Literal["proved", "conditional", "unproven", "leak"]

LEAKS: Verdict = "leak"
SHOWN_TENSOR = 8
"""Numbers of a tensor that a JSON report holds."""


class LeakError(AssertionError):
    """A model uses information it could not have had."""


@dataclass(frozen=True)
class Course:
    """How one element of an input or output runs along its moments, in both runs.

    Attributes:
        name: of the input or the path of the output.
        input: whether it is an input.
        moments: when each value is known or needed.
        before: its values in the first run.
        after: its values in the second.
    """

    name: str
    input: bool
    moments: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclass(frozen=True)
class Finding:
    """One way in which information gets in that could not be had.

    Attributes:
        input: name of the input that leaked; ``another row``, where rows see each other.
        output: path of the output that moved.
        ticks: how far beyond the moment of need the input reached.
        effect: largest change of the output.
        method: how it was found.
        counterexample: what reproduces it: of models a `Counterexample` or `CoinFlips`; None for
            what only tracking has shown.
        module: where it enters: qualified name and class of the submodule; empty if not known.
        op: the operation.
        source: file and line.
        chain: the way from input to output.
        pattern: name of a known mistake, where the evidence says so.
        repair: what to do about that.
        detail: how well coin flips were predicted.
        courses: for the page: what was replaced, and the output that moved, along time.
    """

    input: str
    output: str
    ticks: int
    effect: float
    method: str
    counterexample: Any = None
    module: str = ""
    op: str = ""
    source: str = ""
    chain: tuple[Link, ...] = ()
    pattern: str = ""
    repair: str = ""
    courses: tuple[Course, ...] = ()
    detail: str = ""

    @property
    def place(self) -> str:
        """Say where it enters."""
        where = f"{self.module}: {self.op}" if self.module else self.op
        return f"{where} at {self.source}" if self.source else where

    def __str__(self) -> str:
        """Say it in one sentence."""
        enters = f", enters at {self.place}" if self.op else ""
        pattern = f" ({self.pattern})" if self.pattern else ""
        if self.detail:
            return f"fair coin flips in place of {self.input} are predicted: {self.detail}"
        if self.counterexample is None:
            late = f"{self.ticks} ticks too late"
            return f"{self.output} may depend on {self.input} {late}{enters}{pattern}"
        return (
            f"{self.output} moves by up to {self.effect:.3g} when {self.input} known up to "
            f"{self.ticks} ticks too late is replaced{enters}{pattern} "
            f"({self.method}: {self.counterexample})"
        )


@dataclass(frozen=True)
class Stage:
    """One stage of an audit.

    Attributes:
        name: of the stage.
        outcome: ``proved``, ``passed``, ``found``, ``open``, ``skipped`` or ``failed``.
        detail: what was covered, or why it was not.
        seconds: that it took.
    """

    name: str
    outcome: str
    detail: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Picture:
    """What outputs depend on, as a map of moments by moments.

    Attributes:
        needed: moments of outputs, one a row; several share a row where there are many.
        known: moments of inputs, one a column.
        reach: for each row the latest moment that tracking allows for; None without tracking.
        measured: largest change of a row's outputs when a column's inputs alone are replaced.
    """

    needed: tuple[int, ...]
    known: tuple[int, ...]
    reach: tuple[int | None, ...]
    measured: tuple[tuple[float, ...], ...]

    def legal(self, row: int) -> int:
        """Return how many of the columns a row may depend on."""
        return sum(known <= self.needed[row] for known in self.known)

    @property
    def leaks(self) -> bool:
        """Whether anything moved beyond the frontier."""
        return any(v > 0 for y, row in enumerate(self.measured) for v in row[self.legal(y) :])


@dataclass(frozen=True)
class Report:
    """The outcome of an audit.

    Attributes:
        verdict: ``leak``: a counterexample that replays stands in ``findings``; ``unproven``: none
            was found and ``reasons`` say what stands against a proof; ``conditional``: proved as
            long as ``conditions`` hold; ``proved``: no output depends on what it may not, in
            ``scope``.
        scope: what the verdict holds for and what ran: contract, axes, lengths, modes, paths,
            stages, what was not covered.
        findings: the counterexamples, the largest effect first.
        suspicions: what tracking could not exclude and no counterexample shows.
        conditions: what a proof rests on.
        reasons: why nothing is proved.
        stages: what ran, what was skipped and why.
        picture: for the page.
        zoom: the same moment by moment, where the leak is.
        modules: qualified name and class of every submodule, as they are registered.
    """

    verdict: Verdict
    scope: dict[str, Any]
    findings: tuple[Finding, ...] = field(default=())
    suspicions: tuple[Finding, ...] = field(default=())
    conditions: tuple[str, ...] = field(default=())
    reasons: tuple[str, ...] = field(default=())
    stages: tuple[Stage, ...] = field(default=())
    picture: Picture | None = field(default=None)
    zoom: Picture | None = field(default=None)
    modules: tuple[tuple[str, str], ...] = field(default=())

    def raise_for_leaks(self) -> None:
        """Do nothing, or raise.

        Raises:
            LeakError: there are findings.
        """
        if self.findings:
            raise LeakError("; ".join(str(finding) for finding in self.findings))

    def summary(self) -> str:
        """Say the verdict in one sentence."""
        trials = self.scope.get("trials", 0)
        if self.findings:
            return f"LEAKS: {self.findings[0]}"
        if self.verdict == "proved":
            followed = self.scope.get("operations", 0)
            return f"proved: no output depends on what it may not ({followed} operations followed)"
        if self.verdict == "conditional":
            return f"conditional: proved as long as {'; '.join(self.conditions)}"
        why = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return f"no leak found in {trials} replacements of the future, and unproven{why}"

    def text(self) -> str:
        """Return verdict, findings, stages and scope for a terminal."""
        lines = [self.verdict.upper(), self.summary(), ""]
        lines += [f"also: {finding}" for finding in self.findings[1:]]
        lines += [f"repair: {f.repair}" for f in (*self.findings, *self.suspicions) if f.repair]
        lines += [f"suspicion: {s}" for s in self.suspicions]
        lines += [f"condition: {c}" for c in self.conditions]
        lines += [f"{stage.name:14} {stage.outcome:8} {stage.detail}" for stage in self.stages]
        lines += [f"{name}: {value}" for name, value in self.scope.items() if value not in ("", [])]
        return "\n".join(lines)

    def to_json(self, path: Path | str | None = None) -> str:
        """Return the report as JSON; tensors of counterexamples are shortened.

        Args:
            path: a file to write it to as well.
        """
        return _written(json.dumps(_plain(self), indent=2), path)

    def to_html(self, path: Path | str | None = None) -> str:
        """Return the report as one page that needs nothing else.

        Args:
            path: a file to write it to as well.
        """
        from kt_forecast.audit.page import page

        return _written(page(self), path)

    def to_junit(self, path: Path | str | None = None, *, name: str = "audit") -> str:
        """Return the report as JUnit XML: a case for each stage, and one for the verdict.

        Args:
            path: a file to write it to as well.
            name: of the suite.
        """
        failed = self.verdict == LEAKS
        suite = Element("testsuite", name=name, tests=str(len(self.stages) + 1))
        for stage in self.stages:
            case = SubElement(suite, "testcase", name=stage.name, classname=name)
            case.set("time", f"{stage.seconds:.3f}")
            if stage.outcome == "found":
                SubElement(case, "failure", message=stage.detail)
            elif stage.outcome in {"skipped", "failed"}:
                SubElement(case, "skipped", message=stage.detail)
        case = SubElement(suite, "testcase", name="verdict", classname=name)
        if failed:
            SubElement(case, "failure", message=self.summary()).text = self.text()
        elif self.verdict == "unproven":
            SubElement(case, "skipped", message=self.summary())
        suite.set("failures", str(sum(len(c.findall("failure")) for c in suite)))
        suite.set("timestamp", date.today().isoformat())
        return _written(tostring(suite, encoding="unicode"), path)


def _written(text: str, path: Path | str | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def _plain(value: Any) -> Any:  # noqa: ANN401 - any part of a report
    if isinstance(value, Tensor):
        first = value.detach().reshape(-1)[:SHOWN_TENSOR]
        numbers = [float(x) if value.is_floating_point() else int(x) for x in first]
        return {"shape": list(value.shape), "type": str(value.dtype), "first": numbers}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
