"""Which systems may be used for knowledge tracing, and why the others may not; from audits.

Each system is built with its defaults, with each switch and choice turned that makes another form
of it, and with the settings that give its published form where that reads later steps. All are
audited on noise, as what they are in every task: mixers of steps, whose every output may use the
steps up to its own.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from pydantic import ValidationError
from torch import Tensor

from kt_forecast import zoo
from kt_forecast.audit import Report, audit, causal
from kt_forecast.errors import InputError
from kt_forecast.nn.plain import plainly
from kt_forecast.nn.system import System, SystemConfig

ROWS, STEPS, WIDTH = 2, 160, 16
"""Noise that is audited: enough steps to cross the borders of blocks, segments and rows."""
MOMENTS = 4
"""Moments after which everything is replaced."""
SKIPPED = ("compiled", "coin flips", "picture")
"""Stages left out: nothing is trained here, and nothing compiled."""
PUBLISHED = "published"
COLUMNS = (
    "system",
    "may it be used?",
    "promise",
    "audit of the defaults",
    "other forms",
    "audit as published",
)
LEGEND = (
    "A step may use the steps up to its own; in knowledge tracing a form that reads later ones is "
    "told the answers that it should predict, so training refuses it. "
    "Promise: `step` is causal without a change, `step by change` is not the published form but "
    "one whose change stands below. "
    "Verdicts of the auditor on untrained weights and noise: `proved`: every operation was "
    "followed, and nothing later reaches an output. `conditional`: the same, as long as what is "
    "said holds, such as that a fast form, which lays chosen steps side by side, gives everywhere "
    "what the slow form gives that was followed, as it did on inputs of many kinds. "
    "`unproven`: a choice among steps, such as sorting them, or a sum over them cannot be followed "
    "number by number; later steps were replaced, and nothing earlier moved. "
    "`LEAKS`: it moved, by how much and where is said. "
    "`kt-forecast zoo --causality FILE` makes this page."
)
"""What the page's words mean."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Form:
    """One form of a system, and what its audit found.

    Attributes:
        settings: those that make it, beside the defaults; empty for the defaults.
        verdict: the auditor's.
        found: the first counter-example, with its numbers; empty where there is none.
        open: what a proof rests on, or what stands against one; empty where all is proved.
        leak: what the settings themselves say of later steps.
    """

    settings: str
    verdict: str
    found: str
    leak: str
    open: str = ""

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
        others: with one switch or choice turned that does not say that it leaks.
        networks: settings that make it a whole network.
    """

    name: str
    title: str
    causality: str
    change: str
    own: Form | None
    published: Form | None
    others: tuple[Form, ...] = ()
    networks: tuple[str, ...] = ()

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
        if self.causality != "step":
            given = "Yes, with the change"
        else:
            given = "Yes, as published" if self.published is None else "Yes, with its defaults"
        refused = [form for form in (self.published, *self.others) if form and form.leaks]
        if self.published is not None and not self.published.leaks:
            refused.insert(0, self.published)
        reasons = [f"Not with {form.settings}: {form.leak or 'see the audit'}." for form in refused]
        reasons += [
            f"Not with {one}: a whole network, which mixes no steps." for one in self.networks
        ]
        return " ".join([f"{given}.", *reasons])

    @property
    def unlike_its_promise(self) -> bool:
        """Whether an audit found what the system does not say of itself, or missed what it says."""
        promised = self.causality.startswith("step")
        missed = self.published is not None and not self.published.leaks
        unsaid = any(form.leaks for form in self.others)
        return missed or unsaid or (self.own is not None and self.own.leaks == promised)


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
    configs = ((choice, _config(system, choice)) for choice in _choices(system))
    return Entry(
        name=name,
        title=" ".join(title.split()),
        causality=system.promises.causality,
        change=change,
        own=_audited(system, {}),
        published=None if leaking is None else _audited(system, leaking),
        others=tuple(filter(None, (_audited(system, one) for one in other_forms(system)))),
        networks=tuple(_said(one) for one, made in configs if made and system.is_network(made)),
    )


def leaking_settings(system: System) -> dict[str, Any] | None:
    """Return the fewest settings under which a system says that it leaks; None for none.

    Switches and choices are tried alone, then with each other.
    """
    if system.build is None:
        return None
    choices = _choices(system)
    choices.sort(key=lambda one: PUBLISHED not in one and PUBLISHED not in one.values())
    for tried in (*choices, *(a | b for a in choices for b in choices if a.keys() != b.keys())):
        found = _config(system, tried)
        if found is not None and found.leak and not system.is_network(found):
            return tried
    return None


def other_forms(system: System) -> list[dict[str, Any]]:
    """Return each choice that makes another mixer of a system and does not say that it leaks.

    What is chosen by itself unless it is set, such as a kernel, changes no result.
    """
    found = []
    for choice in _choices(system):
        field = system.config.model_fields[next(iter(choice))]
        config = _config(system, choice)
        if config is None or field.default == "auto":
            continue
        if not (config.leak or system.is_network(config)):
            found.append(choice)
    return found


def _choices(system: System) -> list[dict[str, Any]]:
    """Return every switch and choice of a system that is not its default."""
    found: list[dict[str, Any]] = []
    for name, field in system.config.model_fields.items():
        kind = field.annotation
        values = (True, False) if kind is bool else ()
        values = get_args(kind) if get_origin(kind) is Literal else values
        found += [{name: value} for value in values if value != field.default]
    return found


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

    def call(inputs: dict[str, Tensor]) -> Tensor:
        found: Tensor = module(*inputs.values())[0]
        return found

    def followed(inputs: dict[str, Tensor]) -> Tensor:
        with plainly(module):
            return call(inputs)

    report = audit(
        module,
        steps,
        causal(axis=1),
        call=call,
        plain=followed,
        modes=("evaluation",),
        moments=MOMENTS,
        skip=SKIPPED,
    )
    return Form(_said(changed), report.verdict, _found(report), config.leak, _open(report))


def _said(changed: dict[str, Any]) -> str:
    return ", ".join(f"{key}={str(value).lower()}" for key, value in changed.items())


def _open(report: Report) -> str:
    """Say what a verdict rests on that is neither a proof without conditions nor a leak."""
    if report.verdict == "conditional":
        named = [re.sub(r"(\.py):\d+", r"\1", one.split(": ")[0]) for one in report.conditions]
        return f"as long as {'; '.join(dict.fromkeys(named))}"
    if report.verdict == "unproven":
        tried = report.scope.get("trials", 0)
        return f"none of {tried} replacements of later steps moved an output, which is no proof"
    return ""


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
    lines = ["# Which systems may be used for knowledge tracing", "", _summary(every), "", LEGEND]
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for one in every:
        link = f"[{one.name}](#{one.name})"
        verdicts = (_cell(one.own), _others(one), _cell(one.published))
        cells = (link, one.answer, one.causality, *verdicts)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    for one in every:
        lines += ["", f"## {one.name}", "", one.title, "", one.change]
        lines += ["", f"May it be used? {one.answer}"]
    return "\n".join(lines) + "\n"


def as_html(found: Iterable[Entry]) -> str:
    """Return the page as one HTML document that needs nothing beside itself."""
    from kt_forecast.report.page import environment

    every = list(found)
    template = environment().get_template("causality.html.jinja")
    page: str = template.render(
        entries=every,
        summary=_summary(every),
        cell=_cell,
        others=_others,
        columns=COLUMNS,
        legend=LEGEND,
    )
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
        f"A published form of {leaks} reads later steps, as the audits found.{but}"
    )


def _cell(form: Form | None) -> str:
    if form is None:
        return "-"
    verdict = "LEAKS" if form.leaks else form.verdict
    said = form.found or form.open
    return f"{verdict}: {said}" if said else verdict


def _others(entry: Entry) -> str:
    """Say the verdicts of a system's further forms, those of one verdict together."""
    by_verdict: dict[str, list[str]] = {}
    for form in entry.others:
        said = "LEAKS" if form.leaks else form.verdict
        by_verdict.setdefault(said, []).append(form.settings)
    return "; ".join(f"{said}: {', '.join(forms)}" for said, forms in by_verdict.items()) or "-"
