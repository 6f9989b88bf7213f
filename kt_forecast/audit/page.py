"""One self-contained page of an audit: verdict, map, way of the leak, counter-example, scope."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import torch

from kt_forecast.audit.report import Counterexample, Finding, Picture, Report

MEANING = {
    "leak": "An output moves when only what is known too late is replaced. The example replays.",
    "unproven": "No leak was found, and it could not be proved that there is none.",
    "conditional": "Proved, as long as the conditions below hold.",
    "proved": "No output depends on what it may not, in the scope below.",
}

CELL = 8
"""Pixels of a cell of the map."""

WIDTH, HEIGHT = 420, 120
"""Pixels of a plot."""

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1b1f24}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #d5d9de}
.verdict{display:inline-block;padding:.2rem .7rem;border-radius:.3rem;color:#fff;font-weight:700}
.leak{background:#b3261e}.unproven{background:#8a5a00}.conditional{background:#1f6feb}
.proved{background:#1a7f37}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .6rem;
border-bottom:1px solid #e6e9ec;vertical-align:top}code,pre{font:13px ui-monospace,monospace}
pre{background:#f4f6f8;padding:.8rem;overflow:auto}.entry{background:#fbe4e2;font-weight:600}
figure{margin:1rem 0}figcaption{color:#57606a;font-size:.9rem}svg{max-width:100%;height:auto}
ol.chain{padding-left:1.4rem}
"""


def page(report: Report) -> str:
    """Return the page as HTML."""
    parts = [
        f"<h1>Audit <span class='verdict {report.verdict}'>{report.verdict.upper()}</span></h1>",
        f"<p>{escape(MEANING[report.verdict])}</p>",
        _list("Conditions", report.conditions),
        _list("Why nothing is proved", report.reasons),
        "".join(_finding(f) for f in report.findings),
        "".join(_suspicion(f) for f in report.suspicions),
        _map(report.picture, report.verdict) if report.picture else "",
        _stages(report),
        _scope(report.scope),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>Audit: {report.verdict}</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>"
    )


def _list(title: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if items else ""


def _finding(finding: Finding) -> str:
    name = finding.pattern or "what is known too late"
    lines = [
        f"<h2>Leak: {escape(name)}</h2>",
        f"<p><b>{escape(finding.output)}</b> moves by {finding.effect:.3g} when "
        f"<b>{escape(finding.input)}</b>, known up to {finding.ticks} moments too late, is "
        "replaced.</p>",
        f"<p>Repair: {escape(finding.repair)}.</p>" if finding.repair else "",
        _chain(finding),
    ]
    if isinstance(finding.counterexample, Counterexample):
        lines.append(_counterexample(finding.counterexample))
    return "".join(lines)


def _suspicion(finding: Finding) -> str:
    return f"<h2>Not excluded</h2><p>{escape(str(finding))}</p>{_chain(finding)}"


def _chain(finding: Finding) -> str:
    """Return the way from input to output, the entry marked."""
    if not finding.chain:
        return f"<p>Enters at {escape(finding.place)}.</p>" if finding.op else ""
    items = []
    for link in finding.chain:
        entry = (link.module, link.op, link.source) == (finding.module, finding.op, finding.source)
        mark = " class='entry'" if entry else ""
        said = f"<code>{escape(link.op)}</code> in {escape(link.module or 'no module')}"
        where = f" <small>{escape(link.source)}</small>" if link.source else ""
        items.append(f"<li{mark}>{said}{where}{' &larr; enters here' if entry else ''}</li>")
    return f"<p>The way from input to output:</p><ol class='chain'>{''.join(items)}</ol>"


def _counterexample(example: Counterexample) -> str:
    """Return the two runs of a counter-example as plots of the element that moves."""
    plots = []
    for name, before in example.before.items():
        after = example.after.get(name, before)
        if before.shape == after.shape and before.ndim and not torch.equal(before, after):
            lines = _lines(before, after, example.place)
            plots.append(_plot(f"{name} as it was (grey) and replaced (red)", lines))
    code = (
        "example = report.findings[0].counterexample\n"
        "example.save(Path('leak.npz'))\n"
        "Counterexample.load(Path('leak.npz')).replay(model)  # how far the output moves"
    )
    return (
        f"<p>Counter-example: {escape(str(example))}.</p>{''.join(plots)}<pre>{escape(code)}</pre>"
    )


def _lines(before: torch.Tensor, after: torch.Tensor, place: Sequence[int]) -> list[list[float]]:
    """Return one line of each of two tensors, along the axis on which part of them differs."""
    pair = [x.detach().cpu().double().nan_to_num() for x in (before, after)]
    if pair[0].ndim > 1:
        row = min(place[0] if place else 0, pair[0].shape[0] - 1)
        pair = [x[row] for x in pair]
    differs = pair[0] != pair[1]
    shares = [
        differs.movedim(a, 0).reshape(differs.shape[a], -1).any(1) for a in range(differs.ndim)
    ]
    axis = next((a for a, s in enumerate(shares) if bool(s.any()) and not bool(s.all())), 0)
    columns = [x.movedim(axis, 0).reshape(x.shape[axis], -1) for x in pair]
    widest = int((columns[0] - columns[1]).abs().sum(0).argmax())
    return [list(c[:, widest].tolist()) for c in columns]


def _plot(title: str, lines: list[list[float]]) -> str:
    values = [v for line in lines for v in line]
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    drawn = []
    for line, colour in zip(lines, ("#57606a", "#b3261e"), strict=False):
        step = (WIDTH - 10) / max(len(line) - 1, 1)
        points = " ".join(
            f"{5 + i * step:.1f},{HEIGHT - 8 - (v - low) / spread * (HEIGHT - 16):.1f}"
            for i, v in enumerate(line)
        )
        drawn.append(
            f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='1.5'/>"
        )
    svg = f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}'>{''.join(drawn)}</svg>"
    return f"<figure>{svg}<figcaption>{escape(title)}</figcaption></figure>"


def _map(picture: Picture, verdict: str) -> str:
    """Return the map of outputs by inputs, with the frontier of what is legal."""
    rows, columns = len(picture.needed), len(picture.known)
    largest = max((v for row in picture.measured for v in row if math.isfinite(v)), default=0.0)
    cells, frontier = [], []
    for y, row in enumerate(picture.measured):
        legal = sum(known <= picture.needed[y] for known in picture.known)
        reach = picture.reach[y]
        reached = 0 if reach is None else sum(known <= reach for known in picture.known)
        if reached > legal:
            cells.append(_cell(legal, y, "#f6d5d2", width=reached - legal))
        for x, value in enumerate(row):
            if value > 0:
                cells.append(_cell(x, y, _shade(value, largest, late=x >= legal)))
        frontier.append(f"M{legal * CELL} {y * CELL}v{CELL}")
        if y + 1 < rows:
            later = sum(known <= picture.needed[y + 1] for known in picture.known)
            frontier.append(f"H{later * CELL}")
    svg = (
        f"<svg viewBox='-1 -1 {columns * CELL + 2} {rows * CELL + 2}' "
        f"width='{min(columns * CELL * 2, 640)}' role='img' aria-label='outputs by inputs'>"
        f"<rect width='{columns * CELL}' height='{rows * CELL}' fill='#fff' stroke='#d5d9de'/>"
        f"{''.join(cells)}<path d='{''.join(frontier)}' fill='none' stroke='#000' "
        "stroke-width='1.5'/></svg>"
    )
    shown = "measured" if verdict == "leak" else "measured, where it is allowed"
    said = (
        f"Rows: outputs by the moment they are needed ({picture.needed[0]} to "
        f"{picture.needed[-1]}). Columns: inputs by the moment they are known "
        f"({picture.known[0]} to {picture.known[-1]}). Black: the frontier; what lies right of it "
        f"is too late. Blue: {shown}; red: {shown} beyond the frontier; pale red: tracking cannot "
        "exclude it. Where many moments share a cell it shows the largest."
    )
    return f"<h2>What moves what</h2><figure>{svg}<figcaption>{said}</figcaption></figure>"


def _cell(x: int, y: int, colour: str, width: int = 1) -> str:
    return (
        f"<rect x='{x * CELL}' y='{y * CELL}' width='{width * CELL}' height='{CELL}' "
        f"fill='{colour}'/>"
    )


def _shade(value: float, largest: float, *, late: bool) -> str:
    """Return a colour on a logarithmic scale."""
    share = 1.0 if not math.isfinite(value) or largest <= 0 else value / largest
    depth = min(1.0, max(0.15, 1.0 + math.log10(max(share, 1e-9)) / 6))
    light = round(92 - 52 * depth)
    return f"hsl({4 if late else 212} 70% {light}%)"


def _stages(report: Report) -> str:
    rows = "".join(
        f"<tr><td>{escape(s.name)}</td><td>{escape(s.outcome)}</td><td>{escape(s.detail)}</td>"
        f"<td>{s.seconds:.2f} s</td></tr>"
        for s in report.stages
    )
    return (
        "<h2>What ran</h2><p>Tracking and rows are proofs where they say proved; all other stages "
        "sample.</p><table><thead><tr><th>stage</th><th>outcome</th><th>what</th><th>time</th>"
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def _scope(scope: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{escape(str(value))}</td></tr>"
        for name, value in scope.items()
        if value not in ("", [], {})
    )
    return f"<h2>Scope</h2><table><tbody>{rows}</tbody></table>"
