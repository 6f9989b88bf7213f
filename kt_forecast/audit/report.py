"""What an audit found, in words, as JSON, and as an exception."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["proved", "conditional", "unproven", "leak"]


class LeakError(AssertionError):
    """A model uses information it could not have had."""


@dataclass(frozen=True)
class Finding:
    """One way in which the future gets in.

    Attributes:
        input: name of the input that leaked.
        output: name of the output that moved.
        ticks: how far beyond the moment of need the input reached, at most.
        effect: largest change of the output.
        method: how it was found.
        counterexample: the mode, row and moment to reproduce it.
    """

    input: str
    output: str
    ticks: int
    effect: float
    method: str
    counterexample: dict[str, Any]

    def __str__(self) -> str:
        """Say it in one sentence."""
        return (
            f"{self.output} moves by up to {self.effect:.3g} when {self.input} known up to "
            f"{self.ticks} ticks too late is replaced ({self.method}, {self.counterexample})"
        )


@dataclass(frozen=True)
class Report:
    """The outcome of an audit.

    Attributes:
        verdict: ``leak``: a counterexample stands in ``findings``; ``unproven``: none was found by
            the methods in ``scope``, which sample and therefore cannot prove that there is none.
        scope: what was run: contract, methods, modes, moments, what was not covered and why.
        findings: the counterexamples, one for each guilty input.
    """

    verdict: Verdict
    scope: dict[str, Any]
    findings: tuple[Finding, ...] = field(default=())

    def raise_for_leaks(self) -> None:
        """Do nothing, or raise.

        Raises:
            LeakError: there are findings.
        """
        if self.findings:
            raise LeakError("; ".join(str(finding) for finding in self.findings))

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), indent=2)

    def summary(self) -> str:
        """Say the verdict in one sentence."""
        if self.findings:
            return f"LEAKS: {self.findings[0]}"
        trials = self.scope.get("trials", 0)
        return (
            f"no leak found in {trials} replacements of the future "
            "(a search, not a proof: verdict unproven)"
        )
