"""Forecasts of single series as fan charts: what came before, what happened, what was foreseen."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kt_forecast.report.drawing import (
    INK,
    MODEL,
    MUTED,
    RIVALS,
    WIDE_INCHES,
    Picture,
    columns_that_fit,
    drawn,
    series,
    written,
)
from kt_forecast.report.forecasting import Band, Fan, ForecastRecord
from kt_forecast.report.words import count, decimals, metric, number, percent, shown

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

LEAST_PAST = 24
MOST_PAST_HORIZONS = 4
"""Of the past, two seasons are drawn, but not fewer steps than ahead, nor too many times these."""
RANKS = ("best", "median", "worst")
MOST_TICKS = 8
MARKED_STEPS = 24
"""Most steps ahead at which every value has a marker."""
LIGHTEST, DARKEST = 0.14, 0.46
"""Opacity of the widest interval and of the narrowest."""
DASHES = ((0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (8, 3)))
LEGEND_INCHES = WIDE_INCHES - 0.7
LABEL_LENGTH = 18


def fan_chart(record: ForecastRecord, place: int) -> Picture:
    """Draw one forecast of one series with its intervals and what baselines said."""
    fan = record.fans[place]
    past = _past(record, fan)
    n_past, n_ahead = len(past), len(fan.stamps)
    bands = sorted(fan.bands, key=lambda band: -band.level)
    everyone = {record.system.name, *fan.beside}
    if record.protocols:
        everyone |= set(record.protocols[0].baselines)
    colours = {name: colour for name, colour, _ in series(record, everyone)}

    def draw(figure: "matplotlib.figure.Figure") -> None:
        axes = figure.subplots()
        ahead = range(1, n_ahead + 1)
        marker = "o" if n_ahead <= MARKED_STEPS else ""
        shades = _shades(axes, bands, n_ahead)
        lines = axes.plot(
            range(1 - n_past, n_ahead + 1),
            (*past, *fan.actual),
            color=INK,
            linewidth=1.3,
            marker=marker,
            markersize=3,
            label="actual",
            zorder=5,
        )
        lines += axes.plot(
            ahead,
            fan.point,
            color=MODEL,
            linewidth=2,
            marker=marker,
            markersize=4,
            label=written(record.system.name),
            zorder=6,
        )
        for order, (name, values) in enumerate(fan.beside.items()):
            lines += axes.plot(
                ahead,
                values,
                color=colours.get(name, RIVALS[order % len(RIVALS)]),
                linewidth=1.2,
                linestyle=DASHES[order % len(DASHES)],
                label=written(name),
                zorder=4,
            )
        if past:
            origin = written(_stamp(fan.past_stamps[-1]))
            lines.append(
                axes.axvline(
                    0, color=MUTED, linewidth=1, linestyle=(0, (1.5, 2)), label=f"origin, {origin}"
                )
            )
        ticks = stamp_ticks((*fan.past_stamps[len(fan.past) - n_past :], *fan.stamps))
        axes.set_xticks([at + 1 - n_past for at, _ in ticks], [label for _, label in ticks])
        axes.set_xlim(0.5 - n_past, n_ahead + 0.5)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("own unit")
        handles = [*lines[:2], *shades, *lines[2:]]
        axes.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=columns_that_fit([str(one.get_label()) for one in handles], LEGEND_INCHES),
            columnspacing=1.4,
            handlelength=2.2,
            handletextpad=0.5,
            borderaxespad=0.2,
        )

    label = metric(fan.metric).label
    digits = decimals([fan.value])
    return Picture(
        name=f"fan_{place + 1}",
        title=f"{_heading(fan)}, {label} {number(fan.value, digits)}",
        caption=_caption(fan, len(past)),
        alt=_alt(record, fan),
        svg=drawn(WIDE_INCHES, 3.6, draw),
        wide=True,
    )


def _heading(fan: Fan) -> str:
    """Return what the figure shows; a rank is of the series, any other word of the window."""
    rank = shown(fan.rank).capitalize()
    what = "series:" if fan.rank in RANKS else "window of"
    return f"{rank} {what} {shown(fan.series)}"


def _past(record: ForecastRecord, fan: Fan) -> tuple[float, ...]:
    """Return the part of the past that is drawn."""
    n_ahead = len(fan.stamps)
    seasons = min(2 * record.data.season, MOST_PAST_HORIZONS * n_ahead)
    return fan.past[-max(n_ahead, seasons, LEAST_PAST) :]


def _shades(axes: "matplotlib.axes.Axes", bands: list[Band], n_ahead: int) -> list[Any]:
    """Draw the intervals, widest first, and return what stands for them in the legend.

    They lie over one another; each is as light as makes the whole as dark as its level asks.
    """
    from matplotlib.patches import Patch

    shades: list[Any] = []
    seen = 0.0
    for order, band in enumerate(bands):
        share = order / (len(bands) - 1) if len(bands) > 1 else 0.5
        wanted = LIGHTEST + (DARKEST - LIGHTEST) * share
        single = n_ahead == 1
        steps = (0.7, 1.3) if single else range(1, n_ahead + 1)
        axes.fill_between(
            steps,
            band.low * 2 if single else band.low,
            band.high * 2 if single else band.high,
            color=MODEL,
            alpha=1 - (1 - wanted) / (1 - seen),
            linewidth=0,
            zorder=2,
        )
        seen = wanted
        shades.append(
            Patch(facecolor=MODEL, alpha=wanted, linewidth=0, label=f"{band.level:g}% interval")
        )
    return shades


def stamp_ticks(stamps: Sequence[str]) -> list[tuple[int, str]]:
    """Return position and label of the stamps that an axis names.

    Dates and moments are named where a year, a month, a day or an hour begins, as many of these as
    there is room for; other stamps at equal distances.
    """
    moments = [_moment(stamp) for stamp in stamps]
    best: list[tuple[int, str]] = []
    if all(moment is not None for moment in moments):
        for key, words in _CALENDAR:
            begun = [(key(moment), moment.strftime(words)) for moment in moments if moment]
            found = [
                (i, begun[i][1]) for i in range(1, len(begun)) if begun[i][0] != begun[i - 1][0]
            ]
            if len(best) < len(found) <= MOST_TICKS:
                best = found
    if len(best) > 1:
        return best
    between = max(1, math.ceil(len(stamps) / MOST_TICKS))
    return [(i, shown(stamps[i], LABEL_LENGTH)) for i in range(0, len(stamps), between)]


_CALENDAR: tuple[tuple[Any, str], ...] = (
    (lambda m: m.year // 10, "%Y"),
    (lambda m: m.year // 5, "%Y"),
    (lambda m: m.year // 2, "%Y"),
    (lambda m: m.year, "%Y"),
    (lambda m: (m.year, m.month // 7), "%Y-%m"),
    (lambda m: (m.year, (m.month - 1) // 3), "%Y-%m"),
    (lambda m: (m.year, m.month), "%Y-%m"),
    (lambda m: (m.toordinal() - 1) // 14, "%Y-%m-%d"),
    (lambda m: (m.toordinal() - 1) // 7, "%Y-%m-%d"),
    (lambda m: m.toordinal() // 2, "%Y-%m-%d"),
    (lambda m: m.toordinal(), "%Y-%m-%d"),
    (lambda m: (m.toordinal(), m.hour // 12), "%m-%d %H:%M"),
    (lambda m: (m.toordinal(), m.hour // 6), "%m-%d %H:%M"),
    (lambda m: (m.toordinal(), m.hour // 3), "%m-%d %H:%M"),
    (lambda m: (m.toordinal(), m.hour), "%m-%d %H:%M"),
    (lambda m: (m.toordinal(), m.hour, m.minute // 15), "%H:%M"),
    (lambda m: (m.toordinal(), m.hour, m.minute), "%H:%M"),
)
"""What begins anew where a tick may stand, and how the tick is written, coarse to fine."""


def _moment(stamp: str) -> datetime | None:
    """Return the moment that a stamp names, or None where it is no date."""
    if "-" not in stamp:
        return None
    try:
        return datetime.fromisoformat(stamp)
    except ValueError:
        return None


def _stamp(stamp: str) -> str:
    """Return a stamp without the parts of a day that are nought."""
    moment = _moment(stamp)
    if moment is None:
        return stamp
    if moment.second or moment.microsecond:
        return str(moment.replace(tzinfo=None))
    midnight = not (moment.hour or moment.minute)
    return moment.strftime("%Y-%m-%d" if midnight else "%Y-%m-%d %H:%M")


def _caption(fan: Fan, n_past: int) -> str:
    said = shown(fan.window, 300)
    if n_past < len(fan.past):
        said += f" Of what came before, the last {count(n_past)} steps are shown."
    return said.strip()


def _alt(record: ForecastRecord, fan: Fan) -> str:
    values = [v for v in (*fan.actual, *fan.point) if math.isfinite(v)]
    digits = decimals(values)
    errors = ", ".join(
        f"{shown(name)} {number(_mean_error(fan.actual, forecast), digits)}"
        for name, forecast in {record.system.name: fan.point, **fan.beside}.items()
    )
    held = "".join(
        f" The {band.level:g}% interval holds {percent(share)} of them."
        for band in fan.bands
        if math.isfinite(share := _held(fan, band))
    )
    actual = [v for v in fan.actual if math.isfinite(v)]
    range_ = (
        f"the values lie between {number(min(actual), digits)} and {number(max(actual), digits)}"
        if actual
        else "no value is known"
    )
    origin = f" from {shown(_stamp(fan.past_stamps[-1]))}" if fan.past_stamps else ""
    return (
        f"Forecast of series {shown(fan.series)}{origin}, {count(len(fan.stamps))} steps ahead: "
        f"{range_}. Mean absolute errors: {errors}.{held}"
    )


def _mean_error(actual: Sequence[float], forecast: Sequence[float]) -> float:
    gaps = [abs(a - f) for a, f in zip(actual, forecast, strict=True)]
    known = [gap for gap in gaps if math.isfinite(gap)]
    return sum(known) / len(known) if known else math.nan


def _held(fan: Fan, band: Band) -> float:
    known = [
        low <= value <= high
        for low, value, high in zip(band.low, fan.actual, band.high, strict=True)
        if math.isfinite(low + value + high)
    ]
    return sum(known) / len(known) if known else math.nan
