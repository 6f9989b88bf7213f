"""A run's record as one HTML file that needs nothing beside itself."""

import os
import re
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kt_forecast.report import words
from kt_forecast.report.drawing import BAND, INK, LINES, MODEL, MUTED, PAPER, RIVALS, Picture
from kt_forecast.report.forecasting import ForecastProtocol, ForecastRecord
from kt_forecast.report.gallery import pictures
from kt_forecast.report.headlines import headline
from kt_forecast.report.heatmap import changes
from kt_forecast.report.kinds import AnyProtocol, AnyRecord
from kt_forecast.report.readings import FORECASTING, TRACING
from kt_forecast.report.record import Score
from kt_forecast.report.students import seen_label
from kt_forecast.report.tracing import RunRecord

THEME = {
    PAPER: "--paper",
    INK: "--ink",
    MUTED: "--muted",
    LINES: "--lines",
    MODEL: "--model",
    BAND: "--band",
    **{colour: f"--rival-{place}" for place, colour in enumerate(RIVALS)},
}
"""Colours of the figures that the page replaces by its own, so that they follow light and dark."""

TEMPLATES = {
    RunRecord.TASK: "tracing.html.jinja",
    ForecastRecord.TASK: "forecasting.html.jinja",
}
PROBABILITY_DIGITS = 4


def render(record: AnyRecord) -> str:
    """Return the report as one HTML document without scripts or outside references."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number,
        "count": words.count,
        "percent": words.percent,
        "shown": words.shown,
        "signed": words.signed,
        "interval": words.interval,
        "tight": words.tight,
    }
    return environment.get_template(TEMPLATES[record.TASK]).render(**content(record))


def content(record: AnyRecord) -> dict[str, Any]:
    """Return everything that the templates name."""
    drawn = pictures(record)
    first = record.protocols[0] if record.protocols else None
    found = {
        "record": record,
        "words": words,
        "headline": headline(record),
        "verdict": words.verdict_word(record),
        "first": first,
        "rival": words.best_baseline(first) if first else None,
        "tables": [table(record.system.name, protocol) for protocol in record.protocols],
        "pictures": {picture.name: picture for picture in drawn},
        "inline": {picture.name: inline(picture) for picture in drawn},
        "panels": [
            [p for p in drawn if p.name.startswith(f"scores_{place}_")]
            for place in range(1, len(record.protocols) + 1)
        ],
        "curves": [p for p in drawn if p.name.startswith(("objective", "loss", "validation_"))],
        "settings": list(flat(record.settings)),
        "scope": list(flat(record.verdict.scope)) if record.verdict else [],
        "link": link,
        "absent": Score(value=float("nan")),
    }
    if isinstance(record, RunRecord):
        beliefs = changes(record.mastery) if record.mastery else []
        found |= {"changes": beliefs, "seen_label": seen_label}
        return found | {"unit": "students", "readings": TRACING}
    return found | {"unit": "windows", "readings": FORECASTING}


def write(record: AnyRecord, path: Path) -> None:
    """Write the report whole or not at all; an older file at ``path`` is replaced."""
    page = render(record).encode("utf-8", "replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def table(model: str, protocol: AnyProtocol) -> dict[str, Any]:
    """Return one protocol as rows for the page.

    Returns:
        ``metrics``: columns, those the report knows first; ``rows``: name, scores by metric and
        whether it is the model; ``gaps``: baseline and its differences by metric; ``best``: per
        metric the best value, where more than one system has one; ``digits``: decimals by metric.
    """
    order = [model, *words.baselines_by_score(protocol)]
    scores = [protocol.model, *(protocol.baselines[name] for name in order[1:])]
    found = {name for part in scores for name in part}
    known = FORECASTING if isinstance(protocol, ForecastProtocol) else TRACING
    metrics = [name for name in known if name in found]
    metrics += sorted(found - set(metrics))
    digits = dict.fromkeys(metrics, PROBABILITY_DIGITS)
    if isinstance(protocol, ForecastProtocol):
        digits = {
            name: words.decimals(part[name].value for part in scores if name in part)
            for name in metrics
        }
    return {
        "digits": digits,
        "best": {name: _best(name, scores) for name in metrics},
        "metrics": metrics,
        "rows": list(zip(order, scores, [True] + [False] * (len(order) - 1), strict=True)),
        "gaps": [(n, protocol.differences[n]) for n in order[1:] if protocol.differences.get(n)],
    }


def _best(name: str, scores: list[dict[str, Score]]) -> float | None:
    """Return the best value of a metric, or None where nothing can be compared."""
    values = [s[name].value for s in scores if name in s and isfinite(s[name].value)]
    higher = words.metric(name).higher
    if higher is None or len(values) < 2:
        return None
    return max(values) if higher else min(values)


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every setting by its dotted name, in order."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            yield name, ", ".join(str(part) for part in value)
        else:
            yield name, str(value)


def link(url: str) -> str:
    """Return the address where it leads to the web, else nothing."""
    try:
        return url if urlsplit(url).scheme in {"http", "https"} else ""
    except ValueError:
        return ""


def inline(picture: Picture) -> Any:  # noqa: ANN401
    """Return a figure as markup: its size free, its ids its own, its colours the page's."""
    from markupsafe import Markup

    svg = picture.svg.decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    svg = re.sub(r"<[^>]*>", lambda tag: _owned(tag[0], picture.name), svg)
    return Markup(svg)  # noqa: S704 - matplotlib escaped every name it was given


def _owned(tag: str, owner: str) -> str:
    """Return a tag of a figure with its ids prefixed and its colours named."""
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{owner}-", tag)
    for colour, variable in THEME.items():
        tag = tag.replace(colour, f"var({variable})")
    return tag
