"""The charts of errors and intervals by how far ahead a forecast reaches."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kt_forecast.report.drawing import (
    MARKERS,
    MODEL,
    MUTED,
    NARROW_INCHES,
    Picture,
    columns_that_fit,
    drawn,
    legend,
    series,
    written,
)
from kt_forecast.report.forecasting import ByStep, ForecastProtocol, ForecastRecord
from kt_forecast.report.words import decimals, metric, number, percent, shown

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MOST_BASELINES = 5
"""Baselines that a chart of lines shows, the best of them; the tables have all."""
LEGEND_INCHES = NARROW_INCHES - 0.7
MARKS = 8
"""Markers along a line, however many steps it has."""
NEAR = 2.0
"""How many times as high as the model and the best baseline a chart of errors reaches at most."""
LABEL_GAP = 0.075
"""Least distance of two labels beside a chart, as a share of its height."""


def ahead(record: ForecastRecord) -> Iterator[Picture]:
    """Draw errors, coverage and width by step ahead; of later protocols the first two."""
    for place, protocol in enumerate(record.protocols):
        rows = protocol.by_step
        if rows is None or not rows.steps:
            continue
        for name in ("mse", "mae") if place == 0 else ("mse",):
            wanted = _compared(record, getattr(rows, name))
            if wanted:
                yield _errors(record, place, name, wanted)
        if any(_any(one.coverage) for one in rows.intervals):
            yield _coverage(record, place, rows)
        if place == 0 and any(_any(one.width) for one in rows.intervals):
            yield _width(record, rows)


def _any(values: Sequence[float]) -> bool:
    return any(math.isfinite(value) for value in values)


def _compared(
    record: ForecastRecord, rows: dict[str, tuple[float, ...]]
) -> list[tuple[str, str, str]]:
    """Return name, colour and marker of the model and the best baselines that have values."""
    everyone = {record.system.name, *rows, *record.protocols[0].baselines}
    found = [one for one in series(record, everyone) if _any(rows.get(one[0], ()))]
    return found[: MOST_BASELINES + (bool(found) and found[0][0] == record.system.name)]


def _errors(
    record: ForecastRecord, place: int, name: str, wanted: list[tuple[str, str, str]]
) -> Picture:
    protocol = record.protocols[place]
    steps, rows = _steps(protocol).steps, getattr(_steps(protocol), name)
    label = metric(name).label
    columns = columns_that_fit([written(who) for who, _, _ in wanted], LEGEND_INCHES)
    height = 3.05 + 0.21 * math.ceil(len(wanted) / columns)
    peaks = {who: max(v for v in rows[who] if math.isfinite(v)) for who, _, _ in wanted}
    near = max([*peaks.values()][:2])
    top = 1.05 * min(max(peaks.values()), NEAR * near) or 1.0

    def draw(figure: "matplotlib.figure.Figure") -> None:
        axes = figure.subplots()
        for order, (who, colour, marker) in enumerate(wanted):
            model = who == record.system.name
            axes.plot(
                steps,
                rows[who],
                marker=marker,
                markevery=_every(len(steps), order),
                markersize=5 if model else 4,
                linewidth=2.2 if model else 1.2,
                color=colour,
                label=written(who),
                zorder=10 - order,
            )
        axes.set_ylim(0, top)
        axes.set_ylabel(f"{label}, standardised")
        _step_axis(axes, record, steps)
        legend(axes, columns)

    digits = decimals((v for who, _, _ in wanted for v in rows[who]), by=min)
    said = "; ".join(
        f"{shown(who)} from {number(rows[who][0], digits)} to {number(rows[who][-1], digits)}"
        for who, _, _ in wanted
    )
    high = [f"{shown(who)} ({number(peak, digits)})" for who, peak in peaks.items() if peak > top]
    gone = f" Beyond the top of the chart at its highest: {', '.join(high)}." if high else ""
    n_left_out = sum(_any(row) for row in rows.values()) - len(wanted)
    best = " Of the baselines the best are shown; the table has all." if n_left_out > 0 else ""
    return Picture(
        name=f"ahead_{place + 1}_{name}",
        title=f"{label} by step ahead{_of(record, place)}",
        caption=(
            "Mean over all test windows at each step ahead. Where the model's line meets a "
            f"baseline's, it adds nothing to it that far ahead.{best}{gone}"
        ),
        alt=f"{label} from {steps[0]} to {steps[-1]} steps ahead: {said}.",
        svg=drawn(NARROW_INCHES, height, draw),
    )


def _coverage(record: ForecastRecord, place: int, rows: ByStep) -> Picture:
    kept = [one for one in rows.intervals if _any(one.coverage)]

    def draw(figure: "matplotlib.figure.Figure") -> None:
        from matplotlib.ticker import PercentFormatter

        axes = figure.subplots()
        for order, one in enumerate(kept):
            axes.axhline(one.level / 100, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
            _level_line(axes, rows.steps, one.coverage, order)
        lowest = min(min(v for v in one.coverage if math.isfinite(v)) for one in kept)
        axes.set_ylim(min(lowest, *(one.level / 100 for one in kept), 0.9) - 0.05, 1.0)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylabel("values inside the interval")
        _step_axis(axes, record, rows.steps)
        _beside(axes, [(f"{one.level:g}%", one.level / 100) for one in kept])

    said = "; ".join(
        f"{one.level:g}% intervals from {percent(one.coverage[0])} to {percent(one.coverage[-1])}"
        for one in kept
    )
    return Picture(
        name=f"coverage_{place + 1}",
        title=f"What the intervals hold{_of(record, place)}",
        caption=(
            "Share of the values that fell inside the model's intervals, at each step ahead. On "
            "its dashed line an interval holds just what it promises; below it, the model is too "
            "sure of itself."
        ),
        alt=f"Coverage by step ahead, {rows.steps[0]} to {rows.steps[-1]}: {said}.",
        svg=drawn(NARROW_INCHES, 3.3, draw),
    )


def _width(record: ForecastRecord, rows: ByStep) -> Picture:
    kept = [one for one in rows.intervals if _any(one.width)]

    def draw(figure: "matplotlib.figure.Figure") -> None:
        axes = figure.subplots()
        for order, one in enumerate(kept):
            _level_line(axes, rows.steps, one.width, order)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("mean width, standardised")
        _step_axis(axes, record, rows.steps)
        ends = [[v for v in one.width if math.isfinite(v)][-1] for one in kept]
        _beside(axes, [(f"{one.level:g}%", end) for one, end in zip(kept, ends, strict=True)])

    digits = decimals((v for one in kept for v in one.width), by=min)
    said = "; ".join(
        f"{one.level:g}% intervals from {number(one.width[0], digits)} to "
        f"{number(one.width[-1], digits)}"
        for one in kept
    )
    return Picture(
        name="width_1",
        title="What the intervals cost",
        caption=(
            "Mean distance between the two ends of an interval. Of two models whose intervals "
            "hold what they promise, the one with the narrower ones knows more."
        ),
        alt=f"Width by step ahead, {rows.steps[0]} to {rows.steps[-1]}: {said}.",
        svg=drawn(NARROW_INCHES, 3.3, draw),
    )


def _steps(protocol: ForecastProtocol) -> ByStep:
    return protocol.by_step or ByStep(steps=())


def _of(record: ForecastRecord, place: int) -> str:
    return f" ({shown(record.protocols[place].name, 40)})" if len(record.protocols) > 1 else ""


def _level_line(
    axes: "matplotlib.axes.Axes", steps: Sequence[int], values: Sequence[float], order: int
) -> None:
    axes.plot(
        steps,
        values,
        color=MODEL,
        marker=("o", *MARKERS)[order % (len(MARKERS) + 1)],
        markersize=4,
        markevery=_every(len(steps), order),
    )


def _every(n_steps: int, order: int) -> tuple[int, int]:
    """Return where a line has its markers, so that two lines have them at different places."""
    between = max(1, n_steps // MARKS)
    return (order * between // 3) % between, between


def _step_axis(axes: "matplotlib.axes.Axes", record: ForecastRecord, steps: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    if len(steps) == 1:
        axes.set_xlim(steps[0] - 1, steps[0] + 1)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 3, 5, 6, 10]))
    axes.set_xlabel(f"steps ahead, {shown(record.data.frequency, 20)} each")
    axes.grid(visible=False, axis="x")


def _beside(axes: "matplotlib.axes.Axes", labels: list[tuple[str, float]]) -> None:
    """Write labels to the right of the axes at their heights, none over another."""
    low, high = axes.get_ylim()
    for (label, _), height in zip(
        labels, apart([y for _, y in labels], LABEL_GAP * (high - low)), strict=True
    ):
        axes.annotate(
            label,
            (1.0, height),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center_baseline",
            color=MODEL,
            annotation_clip=False,
        )


def apart(heights: Sequence[float], least: float) -> list[float]:
    """Return the heights moved as little as needed to lie ``least`` apart, lowest kept lowest."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    groups: list[list[int]] = []
    centres: list[float] = []
    for i in order:
        groups.append([i])
        centres.append(heights[i])
        while len(groups) > 1:
            needed = least * (len(groups[-1]) + len(groups[-2])) / 2
            if centres[-1] - centres[-2] >= needed:
                break
            last = groups.pop()
            centres.pop()
            groups[-1] += last
            centres[-1] = sum(heights[j] for j in groups[-1]) / len(groups[-1])
    found = list(heights)
    for group, centre in zip(groups, centres, strict=True):
        for place, i in enumerate(group):
            found[i] = centre + least * (place - (len(group) - 1) / 2)
    return found
