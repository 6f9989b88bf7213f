"""A run's record as one HTML file that needs nothing beside itself."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kt_forecast.report import tables, words
from kt_forecast.report.drawing import BAND, INK, LINES, MODEL, MUTED, PAPER, RIVALS, Picture
from kt_forecast.report.forecasting import ForecastRecord
from kt_forecast.report.gallery import pictures
from kt_forecast.report.headlines import headline, headline_digits, quoted_interval
from kt_forecast.report.heatmap import changes
from kt_forecast.report.kinds import AnyRecord
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


def render(record: AnyRecord) -> str:
    """Return the report as one HTML document without scripts or outside references."""
    return environment().get_template(TEMPLATES[record.TASK]).render(**content(record))


def environment() -> Any:  # noqa: ANN401
    """Return where the templates and their filters are found."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "number": words.number,
        "count": words.count,
        "percent": words.percent,
        "shown": words.shown,
        "signed": words.signed,
        "interval": words.interval,
        "tight": words.tight,
        "share_interval": words.share_interval,
    }
    return found


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
        "tables": [tables.scores(record.system.name, one) for one in record.protocols],
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
        return found | _of_tracing(record)
    return found | _of_forecasting(record, drawn)


def _of_tracing(record: RunRecord) -> dict[str, Any]:
    return {
        "unit": "students",
        "readings": TRACING,
        "changes": changes(record.mastery) if record.mastery else [],
        "seen_label": seen_label,
    }


def _of_forecasting(record: ForecastRecord, drawn: tuple[Picture, ...]) -> dict[str, Any]:
    name = record.system.name
    first = record.protocols[0] if record.protocols else None
    return {
        "unit": "windows",
        "readings": FORECASTING,
        "ahead": [p for p in drawn if p.name.startswith(("ahead_", "coverage_", "width_"))],
        "digits": headline_digits(first) if first else 0,
        "held": quoted_interval(first, name) if first else None,
        "intervals": [tables.intervals(name, one) for one in record.protocols],
        "by_step": [tables.by_step(name, one) for one in record.protocols],
        "fans": [tables.fan(one) for one in record.fans],
    }


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
