"""The auditor on its own catalogue: what it finds, whom it accuses, where it says leaks enter.

The same is asked of the checks in common use, so that the table says what they would have caught.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from kt_forecast.audit.auditing import audit
from kt_forecast.audit.contract import ContractError
from kt_forecast.audit.report import Finding, Report
from kt_forecast.audit.sources import module_of

CATALOGUE = Path(__file__).parents[2] / "tests" / "leaks"

SKIP = ("compiled", "picture")
"""The compiler takes longer than all the rest, and no file leaks in it alone; no page is made."""

ENOUGH = (*SKIP, "back ends", "longer", "lengths", "replay", "rows", "streaming", "padding")
"""A leak that is found without these needs no more; all others, and the honest, get every stage."""

Row = tuple[str, ...]

LEFT_TORCH = {"item": "_local_scalar_dense"}
"""Names under which values leave torch, and the operation that is behind them."""

WORST_FIRST = ("leak", "unproven", "conditional", "proved")


@dataclass(frozen=True)
class Located:
    """Whether the place of a leak was found; None where none can be named.

    Attributes:
        module: the submodule.
        op: the submodule and the operation.
    """

    module: bool | None
    op: bool | None


@dataclass
class SelfTest:
    """The audit of the catalogue, one file after the other.

    Attributes:
        moments: that each audit samples.
        header: of the rows.
        found: leaks that came out as leaks.
        leaks: how many there are.
        accused: honest models that came out as leaks.
        honest: how many there are.
        better: honest models of which more was said than a sound auditor can say.
        worse: honest models of which less was said.
        located: places by leak.
        seen: leaks that each check in common use sees.
        blamed: honest models that each of them accuses.
        unseen: leaks that none of them sees.
    """

    moments: int = 8
    header: Row = ()
    found: int = 0
    leaks: int = 0
    accused: int = 0
    honest: int = 0
    better: list[str] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)
    located: dict[str, Located] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    blamed: dict[str, int] = field(default_factory=dict)
    unseen: int = 0

    def rows(self) -> Iterator[Row]:
        """Yield a row for each leak and its twin, then one for each honest model.

        Raises:
            ContractError: the catalogue is not there.
        """
        checks = catalogue()
        titles = tuple(checks.CHECKS)
        self.seen, self.blamed = dict.fromkeys(titles, 0), dict.fromkeys(titles, 0)
        self.header = ("model", "leaking", "honest", "enters at", "named", "common checks see it")
        leaks, honest = checks.catalogue()
        for name in leaks:
            yield self._leak(checks, name)
        for name in honest:
            verdict = self._innocent(checks, name)
            yield (name, "", verdict, "", "", "")

    def _leak(self, checks: ModuleType, name: str) -> Row:
        file = checks.load(name)
        report = audit(*checks.build(name, honest=False), moments=self.moments, skip=ENOUGH)
        if report.verdict != "leak":
            report = audit(*checks.build(name, honest=False), moments=self.moments, skip=SKIP)
        self.leaks += 1
        self.found += report.verdict == "leak"
        place = located(report, file)
        self.located[name] = place
        said = checks.measure(name)
        for title, word in said.items():
            self.seen[title] += word == "seen"
        self.unseen += "seen" not in said.values()
        where = _entry(report.findings[0]) if report.findings else ""
        innocent = self._innocent(checks, name)
        usual = [title for title, word in said.items() if word == "seen"]
        return (name, report.verdict, innocent, where, _named(place), _listed(usual))

    def _innocent(self, checks: ModuleType, name: str) -> str:
        report = audit(*checks.build(name, honest=True), moments=self.moments, skip=SKIP)
        best = getattr(checks.load(name), "BEST", "proved")
        order = WORST_FIRST.index(report.verdict) - WORST_FIRST.index(best)
        self.honest += 1
        self.accused += report.verdict == "leak"
        if order > 0:
            self.better.append(name)
        if order < 0:
            self.worse.append(name)
        for title, word in checks.measure(name, honest=True).items():
            self.blamed[title] += word == "seen"
        return report.verdict

    @property
    def passed(self) -> bool:
        """Whether every leak was found and no honest model accused."""
        return self.found == self.leaks and not self.accused

    def summary(self) -> list[str]:
        """Say in a few lines what came out."""
        places = [p for p in self.located.values() if p.module is not None]
        modules, ops = (sum(bool(getattr(p, part)) for p in places) for part in ("module", "op"))
        lines = [
            f"leaks found: {self.found} of {self.leaks}; honest models accused: {self.accused} of "
            f"{self.honest}",
            f"right submodule: {modules} of {len(places)}; right submodule and operation: {ops} of "
            f"{len(places)}",
            f"honest models of which less is said than can be proved: {_listed(self.worse)}; more: "
            f"{_listed(self.better)}",
        ]
        lines += [
            f"{title}: sees {n} of {self.leaks} leaks, accuses {self.blamed[title]} of "
            f"{self.honest} honest models"
            for title, n in self.seen.items()
        ]
        return [*lines, f"seen by none of these checks: {self.unseen} of {self.leaks} leaks"]


def catalogue() -> ModuleType:
    """Return the module that lists, builds and checks the catalogue.

    Raises:
        ContractError: it is not there.
    """
    if not (CATALOGUE / "common_checks.py").is_file():
        raise ContractError(
            "the catalogue of leaks is not part of an installed package; run the self-test from a "
            "clone of the repository, which has it in tests/leaks"
        )
    return module_of(CATALOGUE / "common_checks.py", "common_checks")


def located(report: Report, file: Any) -> Located:  # noqa: ANN401 - a file of the catalogue
    """Return whether a finding names the place that a file of the catalogue says.

    Args:
        report: of the leak.
        file: with ``WHERE``, and ``ALSO`` where there is another right answer.
    """
    if file.WHERE is None:
        return Located(None, None)
    wanted = [file.WHERE, getattr(file, "ALSO", file.WHERE)]
    found = [_place(finding) for finding in report.findings if finding.op]
    module = any(place[0] == where[0] for place in found for where in wanted)
    op = any(
        place[0] == where[0] and where[1] in {None, place[1]} for place in found for where in wanted
    )
    return Located(module, op)


def _place(finding: Finding) -> tuple[str, str]:
    name = finding.module.split(" (", maxsplit=1)[0]
    return "" if name == "<model>" else name, LEFT_TORCH.get(finding.op, finding.op)


def _entry(finding: Finding) -> str:
    inside = f" in {finding.module}" if finding.module else ""
    return f"{finding.op}{inside}"


def _named(place: Located) -> str:
    if place.module is None:
        return "no place"
    return "right" if place.op else "module" if place.module else "wrong"


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "none"
