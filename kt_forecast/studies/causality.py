"""Which systems may be used for knowledge tracing, and why the others may not; from audits.

Each system is built twice: with its defaults, and with the settings that give its published form
where that reads later steps. Both are audited on noise, as what they are in every task: mixers of
steps, whose every output may use the steps up to its own.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from pydantic import ValidationError

from kt_forecast import zoo
from kt_forecast.audit import Report, audit, causal
from kt_forecast.errors import InputError
from kt_forecast.nn.system import System, SystemConfig

ROWS, STEPS, WIDTH = 2, 52, 16
"""Noise that is audited: enough steps to cross the borders of blocks, segments and rows."""
MOMENTS = 4
"""Moments after which everything is replaced."""
SKIPPED = ("compiled", "coin flips", "picture")
"""Stages left out: nothing is trained here, and nothing compiled."""
PUBLISHED = "published"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Form:
    """One form of a system, and what its audit found.

    Attributes:
        settings: those that make it, beside the defaults; empty for the defaults.
        verdict: the auditor's.
        found: the first counter-example, with its numbers; empty where there is none.
        leak: what the settings themselves say of later steps.
    """

    settings: str
    verdict: str
    found: str
    leak: str

    @property
    def leaks(self) -> bool:
        """Whether the audit found that it reads later steps."""
        return self.verdict == "leak"


@dataclass(frozen=True)
class Entry:
    """What the page says of a system.

    Attributes:
        name: the word that reaches it.
        title: first line of its docstring.
        causality: what it promises.
        change: what its docstring says of causality.
        own: with its defaults; None for a whole network, which mixes no steps.
        published: with the settings that leak; None where none do.
    """

    name: str
    title: str
    causality: str
    change: str
    own: Form | None
    published: Form | None

    @property
    def usable(self) -> bool:
        """Whether it may be used for knowledge tracing."""
        return self.own is not None and not self.own.leaks and self.causality.startswith("step")

    @property
    def answer(self) -> str:
        """Say which form may be used, and why the other may not."""
        if self.own is None:
            return "No: a whole network, which forecasts from one origin; it mixes no steps."
        if not self.usable:
            why = "the audit found that it reads later steps" if self.own.leaks else self.causality
            return f"No: {why}."
        given = "as published" if self.causality == "step" else "with the change"
        if self.published is None:
            return f"Yes, {given}."
        return f"Yes, {given}; not with {self.published.settings}: {self.published.leak}."

    @property
    def unlike_its_promise(self) -> bool:
        """Whether an audit found what the system does not say of itself, or missed what it says."""
        promised = self.causality.startswith("step")
        missed = self.published is not None and not self.published.leaks
        return missed or (self.own is not None and self.own.leaks == promised)


def entries(names: Iterable[str] | None = None, *, say: Say = print) -> Iterator[Entry]:
    """Audit systems, one after another.

    Args:
        names: of the zoo; by default all of it.
        say: told what is audited.

    Raises:
        InputError: a name reaches no system of the zoo.
    """
    for name in zoo.names() if names is None else names:
        system = zoo.load(name)
        say(f"auditing {name}")
        yield _entry(name, system)


def _entry(name: str, system: System) -> Entry:
    page = (sys.modules[system.config.__module__].__doc__ or "").strip()
    title, *rest = re.split(r"\n\s*\n", page)
    change = " ".join(p for p in rest if not p.startswith("Departures")).replace("\n", " ")
    leaking = leaking_settings(system)
    return Entry(
        name=name,
        title=" ".join(title.split()),
        causality=system.promises.causality,
        change=change,
        own=_audited(system, {}),
        published=None if leaking is None else _audited(system, leaking),
    )


def leaking_settings(system: System) -> dict[str, Any] | None:
    """Return the fewest settings under which a system says that it leaks; None for none.

    Switches and choices are tried alone, then with each other.
    """
    if system.build is None:
        return None
    choices: list[dict[str, Any]] = []
    for field, info in system.config.model_fields.items():
        kind = info.annotation
        values = [True] if kind is bool else get_args(kind) if get_origin(kind) is Literal else ()
        choices += [{field: value} for value in values if value != info.default]
    choices.sort(key=lambda one: PUBLISHED not in one and PUBLISHED not in one.values())
    for tried in (*choices, *(a | b for a in choices for b in choices if a.keys() != b.keys())):
        found = _config(system, tried)
        if found is not None and found.leak and not system.is_network(found):
            return tried
    return None


def _config(system: System, changed: dict[str, Any]) -> SystemConfig | None:
    try:
        return system.config(**{"width": WIDTH, **changed})
    except (ValidationError, InputError):
        return None


def _audited(system: System, changed: dict[str, Any]) -> Form | None:
    config = _config(system, changed)
    if system.build is None or config is None:
        return None
    torch.manual_seed(0)
    module = system.build(config)
    steps = torch.randn(ROWS, STEPS, WIDTH, generator=torch.Generator().manual_seed(1))
    report = audit(
        module,
        steps,
        causal(axis=1),
        call=lambda inputs: module(*inputs.values())[0],
        modes=("evaluation",),
        moments=MOMENTS,
        skip=SKIPPED,
    )
    said = ", ".join(f"{key}={str(value).lower()}" for key, value in changed.items())
    return Form(said, report.verdict, _found(report), config.leak)


def _found(report: Report) -> str:
    """Say the first counter-example of a report in one sentence."""
    for finding in report.findings:
        seen = finding.counterexample
        if seen is not None and seen.method == "replacement":
            return (
                f"the output at step {seen.place[1]} moves by {seen.effect:.2g} when the steps "
                f"after {seen.moment} are replaced"
            )
    return str(report.findings[0]) if report.findings else ""


def as_markdown(found: Iterable[Entry]) -> str:
    """Return the page as Markdown."""
    every = list(found)
    lines = ["# Which systems may be used for knowledge tracing", "", _summary(every), ""]
    lines += ["| system | may it be used? | promise | audit of the defaults | audit as published |"]
    lines += ["|---|---|---|---|---|"]
    for one in every:
        cells = (one.name, one.answer, one.causality, _cell(one.own), _cell(one.published))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    for one in every:
        lines += ["", f"## {one.name}", "", one.title, "", one.change]
    return "\n".join(lines) + "\n"


def as_html(found: Iterable[Entry]) -> str:
    """Return the page as one HTML document that needs nothing beside itself."""
    from kt_forecast.report.page import environment

    every = list(found)
    template = environment().get_template("causality.html.jinja")
    page: str = template.render(entries=every, summary=_summary(every), cell=_cell)
    return page


def writable(path: Path) -> None:
    """Refuse a file that the page cannot be written to.

    Raises:
        InputError: its ending says no form of the page, or it has no folder.
    """
    if path.suffix not in WRITERS:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}; accepted are .html and .md")
    if not path.resolve().parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}")


def written(found: Iterable[Entry], path: Path) -> None:
    """Write the page: HTML or Markdown, by the file's ending.

    Raises:
        InputError: the file cannot be written.
    """
    page = WRITERS[path.suffix](found)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


WRITERS: dict[str, Callable[[Iterable[Entry]], str]] = {".html": as_html, ".md": as_markdown}
"""What writes the page, by the ending of its file."""


def _summary(found: list[Entry]) -> str:
    usable = sum(one.usable for one in found)
    leaks = sum(one.published is not None and one.published.leaks for one in found)
    odd = [one.name for one in found if one.unlike_its_promise]
    but = f" Unlike what they promise: {', '.join(odd)}." if odd else ""
    return (
        f"{usable} of {len(found)} systems may be used for knowledge tracing with their defaults. "
        f"Of {leaks} the published form reads later steps, which the audit found in each.{but}"
    )


def _cell(form: Form | None) -> str:
    if form is None:
        return "-"
    verdict = "LEAKS" if form.leaks else form.verdict
    return f"{verdict}: {form.found}" if form.found else verdict
