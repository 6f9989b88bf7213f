"""The charts of predicted responses: calibration and cold start."""

import math
from typing import TYPE_CHECKING

from kt_forecast.report.drawing import (
    MUTED,
    NARROW_INCHES,
    Picture,
    drawn,
    finite,
    legend,
    series,
    written,
)
from kt_forecast.report.tracing import RunRecord, SeenBin
from kt_forecast.report.words import best_baseline, count, interval, number, percent, shown

if TYPE_CHECKING:
    import matplotlib.figure


def calibration(record: RunRecord) -> Picture | None:
    """Draw observed against predicted shares of the model and the best baseline, and counts."""
    best = best_baseline(record.protocols[0]) if record.protocols else None
    wanted = [
        (name, colour, marker)
        for name, colour, marker in series(record, record.calibration)
        if name in {record.system.name, best}
        and any(math.isfinite(b.predicted) for b in record.calibration[name])
    ]
    if not wanted:
        return None
    bins = [b for b in record.calibration[wanted[0][0]] if math.isfinite(b.predicted)]

    def draw(figure: "matplotlib.figure.Figure") -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        for name, colour, marker in reversed(wanted):
            kept = [b for b in record.calibration[name] if math.isfinite(b.predicted)]
            upper.plot(
                [b.predicted for b in kept],
                [b.observed for b in kept],
                marker=marker,
                markersize=5,
                color=colour,
                label=written(name),
            )
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="observed share right")
        handles, labels = upper.get_legend_handles_labels()
        upper.legend(
            handles[::-1], labels[::-1], loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2
        )
        lower.vlines(
            [b.predicted for b in bins], 0, [b.count for b in bins], color=wanted[0][1], linewidth=7
        )
        lower.set(xlabel="predicted probability", ylabel="answers")
        lower.set_ylim(0, 1.08 * max(1, *(b.count for b in bins)))
        lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        lower.yaxis.set_major_formatter(FuncFormatter(_short_count))
        figure.align_ylabels()

    worst = max(bins, key=lambda b: abs(b.predicted - b.observed))
    return Picture(
        name="calibration",
        title="Does a probability mean what it says?",
        caption=(
            "On the dashed line, of the answers given a probability that very share was right. "
            "Below it, the model promises too much. The bars count the answers behind each point."
        ),
        alt=(
            f"Calibration curve of {', '.join(shown(n) for n, _, _ in wanted)}. Largest distance "
            f"of {shown(wanted[0][0])}: predicted {percent(worst.predicted)}, "
            f"observed {percent(worst.observed)}, {count(worst.count)} answers."
        ),
        svg=drawn(NARROW_INCHES, 4.1, draw),
    )


def _short_count(value: float, _: object = None) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def seen_label(part: SeenBin) -> str:
    """Return the answers seen that a bin stands for, as ``5-9`` or ``100+``."""
    if part.last is None:
        return f"{part.first}+"
    return f"{part.first}" if part.last == part.first else f"{part.first}\N{EN DASH}{part.last}"


def answers_seen(record: RunRecord) -> Picture | None:
    """Draw the AUC by how many answers of the student came before."""
    wanted = [
        entry
        for entry in series(record, record.answers_seen)
        if any(finite(part.auc) for part in record.answers_seen[entry[0]])
    ]
    if not wanted:
        return None
    parts = max((record.answers_seen[name] for name, _, _ in wanted), key=len)
    labels = [seen_label(part) for part in parts]

    def draw(figure: "matplotlib.figure.Figure") -> None:
        axes = figure.subplots()
        axes.axhline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        for order, (name, colour, marker) in enumerate(wanted):
            kept = [
                (labels.index(seen_label(part)), part.auc)
                for part in record.answers_seen[name]
                if seen_label(part) in labels and finite(part.auc)
            ]
            model = name == record.system.name
            if model:
                bars = [(x, s) for x, s in kept if interval(s)]
                axes.vlines(
                    [x for x, _ in bars],
                    [s.low for _, s in bars],
                    [s.high for _, s in bars],
                    color=colour,
                    linewidth=1.4,
                )
            axes.plot(
                [x for x, _ in kept],
                [s.value for _, s in kept],
                marker=marker,
                markersize=6 if model else 4,
                linewidth=2.2 if model else 1.2,
                color=colour,
                label=written(name),
                zorder=10 - order,
            )
        axes.set_xticks(range(len(labels)), labels, rotation=35 if len(labels) > 6 else 0)
        axes.set_xlim(-0.4, len(labels) - 0.6)
        axes.set(xlabel="answers of the student seen before", ylabel="AUC")
        axes.grid(visible=False, axis="x")
        legend(axes)

    said = "; ".join(
        f"{shown(name)} "
        + ", ".join(
            f"{seen_label(p)}: {number(p.auc.value, 3)}"
            for p in record.answers_seen[name]
            if finite(p.auc)
        )
        for name, _, _ in wanted
    )
    return Picture(
        name="answers_seen",
        title="How soon does it know a student?",
        caption=(
            "AUC by how many answers of the student came before. What the model gains from left "
            "to right, beyond what the baselines gain, is tracing; the left end is the cold start. "
            "The dashed line is guessing."
        ),
        alt=f"AUC by answers seen before. {said}.",
        svg=drawn(NARROW_INCHES, 4.1, draw),
    )
