"""One self-contained page of an audit: verdict, way of the leak, counterexample, map, scope."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kt_forecast.audit.drawing import heat_map, plot
from kt_forecast.audit.examples import CoinFlips, Counterexample
from kt_forecast.audit.report import Course, Finding, Picture, Report, Stage

MEANING = {
    "leak": "An output moves when only what is known too late for it is replaced. It replays.",
    "unproven": "No leak was found, and it could not be proved that there is none.",
    "conditional": "Proved, as long as the conditions below hold.",
    "proved": "Every operation was followed: no output depends on what it may not, in the scope "
    "below.",
}

HEADLINES = {
    "unproven": "No leak was found, and none is excluded",
    "conditional": "No output depends on what is known too late, under conditions",
    "proved": "No output depends on what is known too late",
}

NOWHERE = {
    "rows": "It enters where rows of the batch meet; no operation along time can be named.",
    "replay": "It enters through what the model keeps from one call to the next; no operation of "
    "one call can be named.",
    "length": "It enters through the length of the sequence; no operation of one run can be named.",
    "streaming": "The step form and the whole differ; no operation of one run can be named.",
}

NEAR = 3
"""Operations of a long chain shown on either side of the entry; others can be unfolded."""

ALIKE = 3
"""Submodules of one class in a row that are listed one by one; more of them share a line."""

ENCLOSED = 2**19
"""Bytes of a counterexample that a page carries along; a larger one is saved from the report."""

AROUND = 64
"""Moments that a plot shows at most; of longer runs those around where the replacement begins."""

SHOWN = 6
"""Findings, and suspicions, that are shown in full."""


def page(report: Report) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (here / "page.css").read_text("utf-8")
    found = environment.get_template("page.html.jinja")
    return str(found.render(**_content(report), style=_safe(style)))


def _safe(markup: str) -> Any:  # noqa: ANN401 - jinja's own type
    """Mark what this package wrote itself as needing no escape."""
    from markupsafe import Markup

    return Markup(markup)  # noqa: S704 - names inside are escaped where they are put in


def _content(report: Report) -> dict[str, Any]:
    """Return everything that the template names."""
    findings = [_finding(report, i) for i in range(min(len(report.findings), SHOWN))]
    suspicions = [
        _view(f) | {"title": f.pattern or f"{f.output} may read {f.input} too early"}
        for f in report.suspicions[:SHOWN]
    ]
    conditions = [*report.conditions, *report.scope.get("conditions", [])]
    marked = [f for f in (*report.findings, *report.suspicions) if f.chain]
    tree = _tree(report.modules, marked[0] if marked else None)
    content: dict[str, Any] = {
        "verdict": report.verdict,
        "subject": _subject(report),
        "contract": _contract(report),
        "headline": _headline(report),
        "meaning": MEANING[report.verdict],
        "tiles": _tiles(report),
        "reasons": report.reasons,
        "conditions": conditions,
        "why": _why(report),
        "findings": findings,
        "suspicions": suspicions,
        "tree": tree,
        "marked": bool(marked),
        "tree_said": _tree_said(marked),
        "stages": _stages(report),
        "timed": bool(report.stages),
        "scope": list(_scope(report.scope)),
        **_covered(report),
        **_maps(report),
    }
    shown = {
        "why": ("reasons" if report.reasons else "conditions", _why(report)),
        "leaks": ("findings", "Leak"),
        "suspicions": ("suspicions", "Not excluded"),
        "modules": ("tree", "Modules"),
        "map": ("map", "Map"),
        "scope": ("scope", "Proved and sampled"),
    }
    content["sections"] = [(id_, title) for id_, (key, title) in shown.items() if content[key]]
    return content


def _why(report: Report) -> str:
    if report.reasons:
        return "Why nothing is proved"
    return "What the proof rests on" if report.conditions else "What it hinges on"


def _subject(report: Report) -> str:
    if report.modules:
        return report.modules[0][1]
    return "a data pipeline" if "probes" in report.scope else "a model"


def _contract(report: Report) -> str:
    contract = report.scope.get("contract", "")
    return contract if isinstance(contract, str) else ""


def _headline(report: Report) -> str:
    if not report.findings:
        return HEADLINES[report.verdict]
    first = report.findings[0]
    more = len(report.findings) - 1
    also = f", and {more} more" if more else ""
    return f"{_reads(first)}{also}"


def _reads(finding: Finding) -> str:
    """Say what reads what, as a title does."""
    if finding.method == "replay":
        return f"{finding.output} depends on an earlier call"
    if finding.method == "length":
        return f"{finding.output} depends on how long the sequence is"
    if finding.method == "streaming":
        return f"{finding.output} is not the same step by step"
    if finding.ticks > 0:
        unit = "row" if isinstance(finding.counterexample, Mapping) else "moment"
        return f"{finding.output} reads {finding.input}, {_counted(finding.ticks, unit)} too early"
    return f"{finding.output} reads {finding.input}"


def _tiles(report: Report) -> list[dict[str, str]]:
    scope = report.scope
    if report.findings:
        first = report.findings[0]
        tiles = [
            ("Guilty input", first.input, ""),
            ("Output that moves", first.output, f"by {first.effect:.3g}"),
        ]
        if first.ticks > 0:
            unit = "row" if isinstance(first.counterexample, Mapping) else "moment"
            tiles.append(("Reads ahead", _counted(first.ticks, unit), "beyond the need"))
        if first.op:
            tiles.append(("Enters at", first.op, _at(first)))
        elif first.pattern:
            tiles.append(("Kind", first.pattern, ""))
    else:
        tiles = [
            ("Operations followed", str(scope.get("operations", 0)), ""),
            ("Replacements of the future", str(scope.get("trials", 0)), "none moved the past"),
        ]
        for title, key in (("Steps", "lengths"), ("Modes", "modes")):
            if scope.get(key):
                tiles.append((title, _said(scope[key]), ""))
    return [{"name": name, "value": value, "more": more} for name, value, more in tiles]


def _at(finding: Finding) -> str:
    inside = f"in {finding.module}" if finding.module else ""
    return " ".join(part for part in (inside, finding.source) if part)


# Findings.


def _view(finding: Finding) -> dict[str, Any]:
    """Return what suspicions and findings have in common."""
    return {
        "title": _capital(finding.pattern or _reads(finding)),
        "sentence": _sentence(finding),
        "repair": finding.repair,
        "input": finding.input,
        "output": finding.output,
        "place": finding.place,
        "nowhere": NOWHERE.get(finding.method, "No operation could be named."),
        "links": _folded(finding),
    }


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _counted(n: int, unit: str) -> str:
    return f"{n} {unit}{'' if n == 1 else 's'}"


def _sentence(finding: Finding) -> str:
    if finding.counterexample is None or finding.detail:
        return str(finding)
    late = (
        f", known up to {_counted(finding.ticks, 'moment')} too late," if finding.ticks > 0 else ""
    )
    if isinstance(finding.counterexample, Mapping):
        late = f", up to {_counted(finding.ticks, 'row')} ahead," if finding.ticks > 0 else ""
    if finding.method == "replay":
        return f"{finding.output} moves by {finding.effect:.3g} after another call in between."
    if finding.method == "length":
        return (
            f"{finding.output} differs by {finding.effect:.3g} between the whole sequence and its "
            "beginning alone."
        )
    if finding.method == "streaming":
        return f"{finding.output} differs by {finding.effect:.3g} when run step by step."
    return f"{finding.output} moves by {finding.effect:.3g} when {finding.input}{late} is replaced."


def _finding(report: Report, index: int) -> dict[str, Any]:
    finding = report.findings[index]
    example = finding.counterexample
    view = _view(finding) | {
        "is_model": isinstance(example, Counterexample),
        "facts": [],
        "plots": [],
        "example": "",
        "code": "",
        "file": "",
        "file_name": f"leak-{index + 1}.npz",
    }
    if isinstance(example, Counterexample):
        view |= _replayed(finding, example, index, view["file_name"])
    elif isinstance(example, CoinFlips):
        view |= _flipped(example, index, view["file_name"])
    elif isinstance(example, Mapping):
        view |= {"facts": list(_pipeline_facts(finding, example))}
        if "change" in example:
            view["code"] = (
                "from kt_forecast.audit.pipeline import replay\n\n"
                f"replay(function, table, contract, report.findings[{index}])"
                f"  # how far {example.get('output', finding.output)} moves"
            )
    return view


def _replayed(finding: Finding, example: Counterexample, index: int, name: str) -> dict[str, Any]:
    """Return plots, the file and the lines that replay it."""
    cut = example.moment if example.method == "replacement" else None
    moments = [m for course in finding.courses for m in course.moments]
    span = (min(moments, default=0), max(moments, default=1))
    if cut is not None and span[1] - span[0] > AROUND:
        far = min(cut + max(finding.ticks, 0), cut + AROUND // 2)
        span = (max(span[0], cut - AROUND // 4), min(span[1], far + AROUND // 4))
    plots = [
        {"svg": _safe(plot(c, cut, span)), "caption": _caption(c.name, cut, replaced=c.input)}
        for c in (_within(course, span) for course in finding.courses)
    ]
    place = ", ".join(map(str, example.place))
    said = f"how far {finding.output}[{place}] moves"
    return {"plots": plots} | _enclosed(example, index, name, "model", said)


def _flipped(example: CoinFlips, index: int, name: str) -> dict[str, Any]:
    """Return the file and the lines that replay coin flips."""
    replays = "model" if example.modes else "pipeline"
    return _enclosed(example, index, name, replays, "how far from one half")


def _enclosed(
    example: Counterexample | CoinFlips, index: int, name: str, model: str, said: str
) -> dict[str, Any]:
    """Return the file of an example and the lines that replay it."""
    stored = io.BytesIO()
    example.save(stored)
    enclosed = stored.tell() <= ENCLOSED
    kind = type(example).__name__
    lines = ["from pathlib import Path", "", f"from kt_forecast.audit import {kind}", ""]
    if not enclosed:
        lines.append(f'report.findings[{index}].counterexample.save(Path("{name}"))')
    lines += [
        f'example = {kind}.load(Path("{name}"))',
        f"example.replay({model})  # {example.effect:.3g}: {said}",
    ]
    return {
        "example": f"{example}.",
        "code": "\n".join(lines),
        "file": base64.b64encode(stored.getvalue()).decode() if enclosed else "",
    }


def _within(course: Course, span: tuple[int, int]) -> Course:
    inside = [i for i, m in enumerate(course.moments) if span[0] <= m <= span[1]]
    return replace(
        course,
        moments=tuple(course.moments[i] for i in inside),
        before=tuple(course.before[i] for i in inside),
        after=tuple(course.after[i] for i in inside),
    )


def _caption(name: str, cut: int | None, *, replaced: bool) -> str:
    if replaced:
        where = f" after moment {cut}" if cut is not None else ""
        return f"{name}: as it was (grey), and replaced{where} (red)."
    if cut is None:
        return f"{name}: in the first run (grey) and in the second (red); dots: what moved."
    return (
        f"{name}: in the first run (grey) and in the second (red). On the blue ground, up to "
        f"moment {cut}, nothing may move; ringed: what moved all the same."
    )


def _pipeline_facts(finding: Finding, example: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for title, name in (("Type", "type"), ("Time ahead", "span"), ("Found by", "found_by")):
        value = getattr(finding, name, "")
        if value:
            yield title, _said(value)
    if "before" in example:
        row = f" (row {example['row']})" if "row" in example else ""
        yield (
            f"{example.get('output', finding.output)}{row}",
            (f"{_said(example['before'])}, after the change {_said(example['after'])}"),
        )
    for name, value in example.items():
        if name in {"change", "first"}:
            yield ("The change" if name == "change" else "Before it"), _said(value)
        elif name not in {"output", "before", "after", "row"}:
            yield name.capitalize(), _said(value)


# The way and the modules.


@dataclass
class _Link:
    """One operation of the way, numbered."""

    number: int
    module: str
    op: str
    source: str
    entry: bool


@dataclass
class _Node:
    """One submodule of the tree.

    Attributes:
        name: last part of its name.
        kind: its class.
        parts: submodules.
        links: operations of the way that ran in it.
        passed: whether the way passes through it or what is inside.
        open: whether it is unfolded.
        entry: whether the leak enters in it.
    """

    name: str
    kind: str
    parts: list["_Node"] = field(default_factory=list)
    links: list[_Link] = field(default_factory=list)
    passed: bool = False
    open: bool = False
    entry: bool = False

    @property
    def numbers(self) -> str:
        """Say which operations of the way ran in it, where it is folded up."""
        inside = [link.number for link in self.links]
        pending = list(self.parts)
        while pending:
            part = pending.pop()
            inside += [link.number for link in part.links]
            pending += part.parts
        return f"operation{'s' * (len(inside) > 1)} {', '.join(map(str, sorted(inside)))}"


def _links(finding: Finding) -> list[_Link]:
    found = []
    place = (finding.module, finding.op, finding.source)
    entered = False
    for i, link in enumerate(finding.chain):
        entry = not entered and (link.module, link.op, link.source) == place
        entered = entered or entry
        found.append(_Link(i + 1, link.module, link.op, link.source, entry))
    return found


def _folded(finding: Finding) -> list[dict[str, Any]]:
    """Return the way, with what is far from its ends and from the entry folded up."""
    links = _links(finding)
    entry = next((i for i, link in enumerate(links) if link.entry), 0)
    last = len(links) - 1
    found: list[dict[str, Any]] = []
    hidden: list[_Link] = []
    for i, link in enumerate(links):
        if i in {0, last} or abs(i - entry) <= NEAR:
            if hidden:
                found.append({"folded": hidden, "link": None})
                hidden = []
            found.append({"folded": [], "link": link})
        else:
            hidden.append(link)
    return found


def _tree(modules: Sequence[tuple[str, str]], finding: Finding | None) -> _Node | None:
    """Return the modules as a tree, the way of a leak written into it."""
    if not modules:
        return None
    nodes: dict[str, _Node] = {}
    for name, kind in modules:
        node = nodes[name] = _Node(name.rpartition(".")[2] or "model", kind)
        if name:
            nodes.get(name.rpartition(".")[0], nodes[""]).parts.append(node)
    for link in _links(finding) if finding else []:
        name = link.module.split(" (", maxsplit=1)[0]
        name = "" if name == "<model>" or name not in nodes else name
        nodes[name].links.append(link)
        nodes[name].entry |= link.entry
        above = [name]
        while above[-1]:
            above.append(above[-1].rpartition(".")[0])
        for title in above:
            nodes[title].passed = True
            nodes[title].open |= link.entry
    root = nodes[""]
    root.open = True
    _gather(root)
    return root


def _gather(node: _Node) -> None:
    """Let many submodules of one class, through which the leak does not pass, share a line."""
    kept: list[_Node] = []
    run: list[_Node] = []
    for part in node.parts:
        _gather(part)
        if part.passed or (run and run[0].kind != part.kind):
            kept += _shared(run)
            run = []
        (kept if part.passed else run).append(part)
    node.parts = [*kept, *_shared(run)]


def _shared(run: list[_Node]) -> list[_Node]:
    if len(run) <= ALIKE:
        return run
    return [_Node(f"{run[0].name} to {run[-1].name}", f"{len(run)} of {run[0].kind}", run)]


def _tree_said(marked: Sequence[Finding]) -> str:
    if not marked:
        return "The submodules as they are registered; unfold them to see inside."
    place = marked[0].place
    return (
        f"The first way from input to output, operation by operation, inside the modules it "
        f"passes through. It enters at {place}."
    )


# The map.


def _maps(report: Report) -> dict[str, Any]:
    picture, zoom = report.picture, report.zoom
    if picture is None:
        return {"map": "", "zoom": "", "hatched": False}
    beyond = [
        y
        for y, reach in enumerate(picture.reach)
        if reach is not None and reach > picture.needed[y]
    ]
    shared = len(picture.known) > 1 and _shares(picture)
    caption = "All moments." + (
        " Many moments share a cell, which shows the largest change of them." if shared else ""
    )
    found = {
        "map": _safe(heat_map(picture, told=len(picture.known) <= 24, box=zoom)),
        "map_said": "Each input moment was replaced alone, and every output held against what it "
        "was. What lies right of the frontier is known too late. Deeper colours are larger "
        "changes, on a logarithmic scale.",
        "map_caption": caption,
        "hatched": bool(beyond),
        "zoom": "",
    }
    if zoom is not None:
        found["zoom"] = _safe(heat_map(zoom, told=True))
        found["zoom_caption"] = (
            "The dotted part of the map, moment by moment; point at a cell for its number."
        )
    return found


def _shares(picture: Picture) -> bool:
    steps = {b - a for a, b in zip(picture.known, picture.known[1:], strict=False)}
    return len(picture.known) > 32 and min(steps, default=1) > 1


# What was covered.


def _stages(report: Report) -> list[Stage]:
    if report.stages:
        return list(report.stages)
    return [_probe(record) for record in report.scope.get("probes", [])]


def _probe(record: Mapping[str, Any]) -> Stage:
    """Return a probe of a pipeline as a stage."""
    found, skipped = record.get("found", []), record.get("skipped", "")
    ran = f"{record.get('ran', 0)} runs, {record.get('rows_compared', 0)} rows compared"
    failed = sum(record.get("failed", {}).values()) if record.get("failed") else 0
    detail = [skipped] if skipped else [ran]
    detail += [f"{failed} failed"] if failed else []
    detail += [f"found {', '.join(map(str, found))}"] if found else []
    outcome = "found" if found else "skipped" if skipped else "passed"
    return Stage(str(record.get("probe", "")), outcome, "; ".join(detail))


def _covered(report: Report) -> dict[str, Any]:
    """Say what was proved, what was sampled and what neither covers."""
    stages = _stages(report)
    proved = [f"{s.name}: {s.detail}" for s in stages if s.outcome == "proved"]
    sampled = [f"{s.name}: {s.detail}" for s in stages if s.outcome in {"passed", "found"}]
    skipped = [s for s in report.stages if s.outcome == "skipped"]
    left = [f"{s.name}: {s.detail}" for s in skipped]
    tried = [f"{s.name}: {s.detail}" for s in stages if s.outcome in {"open", "failed"}]
    left += [str(line) for line in report.scope.get("open", [])]
    rest = report.scope.get("not_covered", "")
    left += [part for part in str(rest).split("; ") if part]
    search = "probes" in report.scope
    none = "Nothing: a search finds leaks and proves none." if search else "Nothing."
    left = list(dict.fromkeys(left))
    return {
        "proved": proved,
        "tried": tried,
        "sampled": sampled,
        "left_out": left,
        "none_proved": none,
    }


TOLD = frozenset({"probes", "open", "not_covered", "conditions"})
"""Parts of a scope that stand elsewhere on the page."""


def _scope(scope: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in scope.items():
        if name not in TOLD and value not in ("", [], {}):
            yield name.replace("_", " "), _said(value)


def _said(value: Any) -> str:  # noqa: ANN401 - any part of a scope
    """Say a nest of plain values."""
    if isinstance(value, Mapping):
        parts = [f"{k} {_said(v)}" for k, v in value.items() if v not in ("", [], (), {}, None)]
        return "; ".join(parts)
    if isinstance(value, list | tuple):
        inner = ["(" + _said(v) + ")" if isinstance(v, list | tuple) else _said(v) for v in value]
        return ", ".join(inner)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    return str(value)
