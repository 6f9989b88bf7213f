"""A study's record as one HTML file that needs nothing beside itself."""

import math
from typing import TYPE_CHECKING

from kt_forecast.report import words
from kt_forecast.report.drawing import (
    MARKERS,
    MODEL,
    MUTED,
    RIVALS,
    WIDE_INCHES,
    Picture,
    columns_that_fit,
    drawn,
    legend,
)
from kt_forecast.report.page import environment, flat, inline, link
from kt_forecast.studies import words as figures
from kt_forecast.studies.record import Chart, StudyRecord

if TYPE_CHECKING:
    import matplotlib.figure

BYTES = "_bytes"
COLOURS = (MODEL, *RIVALS)
SHAPES = ("o", *MARKERS)
BETWEEN_INCHES = WIDE_INCHES - 1.4
"""Width between the axes, to which a legend keeps, about."""
MOST_TICKS = 9
"""Labels of an axis of powers, about."""


def render(record: StudyRecord) -> str:
    """Return the record as one HTML document without scripts or outside references."""
    found = [picture(record, chart) for chart in record.charts]
    return (
        environment()
        .get_template("measured.html.jinja")
        .render(
            record=record,
            words=words,
            pictures={picture.name: picture for picture in found},
            inline={picture.name: inline(picture) for picture in found},
            settings=list(flat(record.settings)),
            machine=[_readable(name, value) for name, value in flat(record.machine)],
            link=link,
        )
    )


def _readable(name: str, value: str) -> tuple[str, str]:
    if name.endswith(BYTES):
        return f"{name.removesuffix(BYTES)} memory", figures.size(float(value))
    return name, value


def picture(record: StudyRecord, chart: Chart) -> Picture:
    """Draw a chart."""

    def draw(figure: "matplotlib.figure.Figure") -> None:
        from matplotlib.ticker import LogLocator, NullFormatter

        axes = figure.subplots()
        for place, line in enumerate(chart.lines):
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(
                line.x,
                line.y,
                color=colour,
                marker=SHAPES[place % len(SHAPES)],
                markersize=4.5,
                linestyle="-" if place < len(COLOURS) else "--",
                label=line.name,
            )
            if line.low:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.1, linewidth=0)
        if math.isfinite(chart.level):
            axes.axhline(chart.level, color=MUTED, linewidth=1.0, linestyle="--")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if chart.log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=MOST_TICKS))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(chart.x)
        axes.set_ylabel(chart.y)
        legend(axes, columns_that_fit([line.name for line in chart.lines], BETWEEN_INCHES))

    said = "; ".join(
        f"{line.name}: "
        + ", ".join(f"{y:.4g} at {x:,.0f}" for x, y in zip(line.x, line.y, strict=True))
        for line in chart.lines
    )
    return Picture(
        name=words.slug(f"{record.study}_{chart.name}"),
        title=chart.title,
        caption=chart.caption,
        alt=f"{chart.y} by {chart.x}. {said}.",
        svg=drawn(WIDE_INCHES, 4.2, draw),
        wide=True,
    )
