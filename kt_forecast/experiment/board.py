"""A leaderboard: plain values, tables for a terminal, one page that needs nothing beside itself."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from kt_forecast.errors import InputError
from kt_forecast.experiment.board_rows import (
    HEADER,
    SIGNIFICANT,
    Failure,
    Group,
    Row,
)
from kt_forecast.experiment.running import put
from kt_forecast.experiment.standings import COLUMNS, Standing, standings, table_of

MEANS = {
    "less the best": "paired difference to the best fair system on the same test rows, with its"
    " 95 % interval: students, or blocks of time, are drawn for both at once",
    "p": "two-sided, from the spread of the same draws",
    "a step": "median time of one answer and the question after it, or of one forecast, unbatched",
    "memory": "the most that the process of the training has held",
    "causality": "what the system promises: step reads up to the step, window reads a whole window",
}

OVER_ALL = "All data sets: scores, and ranks among those to which the comparison is fair"

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:92rem;margin:2rem auto;padding:0 1rem;
color:#1b1f24;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%;font-size:.84rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.25rem .45rem;border-bottom:1px solid #e3e7eb;white-space:nowrap}
tr.best td,td.top{font-weight:600}td.why{white-space:normal}nav a{margin-right:1rem}
figure>svg{display:block}tr.unfair td{color:#7a1f17;background:#fdf1f0}
.mark{background:#b3261e;color:#fff;border-radius:.25rem;padding:0 .35rem;font-size:.8rem}
figure{margin:1rem 0;overflow-x:auto}dl{color:#57606a;font-size:.9rem}dt{font-weight:600}
svg text{font:12px system-ui,sans-serif;fill:#1b1f24}
@media (prefers-color-scheme:dark){body{background:#14171a;color:#e6e9ec}
svg text{fill:#e6e9ec}th,td{border-color:#30363d}tr.unfair td{background:#3a1b19;color:#ffb4ab}}
"""
NAME, WIDTH, LINE = 7, 560, 20
"""Pixels of a plot: a letter of a name, values, height of a row."""


@dataclass(frozen=True)
class Board:
    """Everything that was compared.

    Attributes:
        groups: systems on the same test rows.
        failed: what is missing among them.
        said: what else a reader must know, one sentence each.
    """

    groups: tuple[Group, ...]
    failed: tuple[Failure, ...] = ()
    said: tuple[str, ...] = ()

    def standings(self) -> tuple[Standing, ...]:
        """Return every system over all data sets, the best first; nothing for one data set."""
        return standings(self.groups) if len(self.groups) > 1 else ()

    def tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        """Return title, header and rows: of all data sets, where there are several, and of each."""
        found: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = []
        if over_all := self.standings():
            found.append((OVER_ALL, *table_of(self.groups, over_all)))
        for group in self.groups:
            header = ("system", group.metric.upper(), *HEADER[2:])
            rows = [
                row.cells(is_best=row.system == group.best, name=name)
                for row, name in zip(group.rows, group.names(), strict=True)
            ]
            found.append((group.title, header, rows))
        return found

    def notes(self) -> Iterator[str]:
        """Yield what a reader must know, one sentence each."""
        yield from self.said
        for one in self.failed:
            yield f"{one.system} is missing, {one.under}: {one.why}"
        yield from self._of_rows()

    def _of_rows(self) -> Iterator[str]:
        for group in self.groups:
            for row in group.rows:
                if row.marks:
                    yield (
                        f"{row.system} is {' and '.join(row.marks)}: its rank among the others"
                        " means nothing"
                    )
            early = [r.system for r in group.rows if r.early]
            if early:
                yield (
                    f"{group.title}: ended early by time, the same command goes on with them:"
                    f" {', '.join(early)}"
                )
            level = [
                r.system for r in group.rows if r.gap and not r.marks and r.gap.p > SIGNIFICANT
            ]
            if level:
                yield f"{group.title}: not told from {group.best}: {', '.join(level)}"

    def to_json(self) -> str:
        """Return everything as strict JSON."""
        plain = asdict(self) | {"standings": [asdict(one) for one in self.standings()]}
        return json.dumps(_finite(plain), allow_nan=False)

    @classmethod
    def read(cls, path: Path) -> "Board":
        """Return the board that `to_json` has written to a file.

        Raises:
            InputError: there is no such file, or it holds something else.
        """
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            groups = tuple(_stored_group(group) for group in plain["groups"])
            failed = tuple(Failure(**one) for one in plain["failed"])
            return cls(groups, failed, tuple(plain["said"]))
        except FileNotFoundError:
            raise InputError(
                f"{path}: no such file; accepted is one that compare --json has written"
            ) from None
        except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: no board can be read from it ({type(error).__name__}); accepted is a file"
                " that compare --json has written"
            ) from error

    def to_html(self) -> str:
        """Return one page without scripts or outside references."""
        over_all = self.standings()
        tables = self.tables()
        parts = [_over_all(*tables.pop(0), over_all)] if over_all else []
        parts += [
            _section(number, group, header, rows)
            for number, (group, (_, header, rows)) in enumerate(
                zip(self.groups, tables, strict=True)
            )
        ]
        if self.failed:
            parts.append(_missing(self.failed))
        links = [(f"set{i}", group.label or group.title) for i, group in enumerate(self.groups)]
        links += [("missing", f"missing: {len(self.failed)}")] if self.failed else []
        there = " ".join(f"<a href='#{to}'>{escape(name)}</a>" for to, name in links)
        told = "".join(f"<li>{escape(note)}</li>" for note in (*self.said, *self._of_rows()))
        terms = MEANS | (COLUMNS if over_all else {})
        means = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in terms.items())
        return (
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
            "<meta name='viewport' content='width=device-width,initial-scale=1'>"
            f"<title>Systems compared</title><style>{STYLE}</style></head><body>"
            f"<h1>Systems compared</h1><nav>{there}</nav>{f'<ul>{told}</ul>' if told else ''}"
            f"{''.join(parts)}"
            f"<dl>{means}</dl></body></html>"
        )

    def to_markdown(self) -> str:
        """Return what the page says as text for a repository."""
        lines = ["# Systems compared", "", *(f"- {note}" for note in self.notes()), ""]
        for title, header, rows in self.tables():
            lines += [f"## {title}", "", _piped(header), _piped(["---"] * len(header))]
            lines += [*(_piped(row) for row in rows), ""]
        lines += [f"- {term}: {what}" for term, what in (MEANS | COLUMNS).items()]
        return "\n".join(lines) + "\n"

    def write(self, page: Path, plain: Path | None = None, markdown: Path | None = None) -> None:
        """Write the page, and what else is given a name, each whole or not at all.

        Raises:
            InputError: one of them cannot be written.
        """
        texts = (page, self.to_html), (plain, self.to_json), (markdown, self.to_markdown)
        for path, text in texts:
            if path is None:
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                put(path, text())
            except OSError as error:
                raise InputError(f"{path} cannot be written: {error.strerror}") from error


def _stored_group(plain: dict[str, Any]) -> Group:
    rows = tuple(Row.read(row) for row in plain["rows"])
    return Group(**plain | {"rows": rows, "key": tuple(plain.get("key", ()))})


def _piped(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _over_all(
    title: str, header: tuple[str, ...], rows: list[tuple[str, ...]], over_all: tuple[Standing, ...]
) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = []
    for one, cells in zip(over_all, rows, strict=True):
        kind = "unfair" if one.marks else "best" if one is over_all[0] else ""
        first = len(cells) - len(one.cells)
        bold = {
            first + i
            for i, cell in enumerate(one.cells)
            if cell is not None and (cell.rank == 1 or cell.is_level)
        }
        told = "".join(
            f"<td class='top'>{escape(cell)}</td>" if i in bold else f"<td>{escape(cell)}</td>"
            for i, cell in enumerate(cells)
        )
        lines.append(f"<tr class='{kind}'>{told}</tr>")
    return (
        f"<h2>{escape(title)}</h2><figure><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></figure>"
    )


def _missing(failed: Sequence[Failure]) -> str:
    """Return a table of what is not on the page."""
    lines = "".join(
        f"<tr><td>{escape(one.system)}</td><td>{escape(one.under)}</td>"
        f"<td class='why'>{escape(one.why)}</td></tr>"
        for one in failed
    )
    return (
        "<h2 id='missing'>Missing</h2><figure><table><thead><tr><th>system</th><th>under</th>"
        f"<th>why</th></tr></thead><tbody>{lines}</tbody></table></figure>"
    )


def _section(
    number: int, group: Group, header: tuple[str, ...], rows: list[tuple[str, ...]]
) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = []
    for row, name, cells in zip(group.rows, group.names(), rows, strict=True):
        kind = "unfair" if row.marks else "best" if row.system == group.best else ""
        marks = "".join(f" <span class='mark'>{escape(m)}</span>" for m in row.marks)
        first = f"<td title='{escape(row.system)}'>{escape(name)}{marks}</td>"
        rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:])
        lines.append(f"<tr class='{kind}'>{first}{rest}</tr>")
    return (
        f"<h2 id='set{number}'>{escape(group.title)}</h2><figure>{_plot(group)}</figure>"
        f"<figure><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        "</figure>"
    )


def _plot(group: Group) -> str:
    """Draw each score with its interval on one line."""
    ends = [x for r in group.rows for x in (r.score.low, r.score.value, r.score.high)]
    known = [x for x in ends if not math.isnan(x)]
    low, high = min(known), max(known)
    span, names = (high - low) or 1.0, group.names()
    left_of = NAME * max(map(len, names)) + 16

    def at(x: float) -> float:
        return left_of + 10 + (WIDTH - 20) * (x - low) / span

    drawn = []
    for i, (row, name) in enumerate(zip(group.rows, names, strict=True)):
        y = LINE * i + LINE // 2
        left, right = at(row.score.low), at(row.score.high)
        colour = "#b3261e" if row.marks else "#1f6feb" if row.verdict else "#8b949e"
        drawn.append(f"<text x='{left_of - 8}' y='{y + 4}' text-anchor='end'>{escape(name)}</text>")
        if not math.isnan(row.score.low):
            drawn.append(
                f"<line x1='{left:.1f}' x2='{right:.1f}' y1='{y}' y2='{y}'"
                f" stroke='{colour}' stroke-width='2'/>"
            )
        if not math.isnan(row.score.value):
            drawn.append(f"<circle cx='{at(row.score.value):.1f}' cy='{y}' r='4' fill='{colour}'/>")
    height = LINE * len(group.rows) + 22
    axis = "".join(
        f"<text x='{x:.0f}' y='{height - 6}' text-anchor='{anchor}'>{value:.4g}</text>"
        for x, value, anchor in ((at(low), low, "start"), (at(high), high, "end"))
    )
    said = f"{group.metric} of each system with its interval; {'less' if group.lower else 'more'}"
    return (
        f"<svg width='{left_of + WIDTH}' height='{height}' role='img'"
        f" aria-label='{said} is better'>"
        f"{''.join(drawn)}{axis}</svg><figcaption>{said} is better</figcaption>"
    )


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
