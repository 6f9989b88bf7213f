"""The report's charts: scores, calibration, cold start and training."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kt_forecast.report.drawing import (
    BAND,
    MODEL,
    MUTED,
    NARROW_INCHES,
    RIVALS,
    Picture,
    drawn,
    finite,
    legend,
    series,
    written,
)
from kt_forecast.report.record import RunRecord, SeenBin
from kt_forecast.report.words import (
    HEADLINE,
    baselines_by_score,
    best_baseline,
    count,
    interval,
    metric,
    number,
    percent,
    shown,
    slug,
)

if TYPE_CHECKING:
    import matplotlib.figure

PANELS = (HEADLINE, "auc_within_student", "nll", "ece")
"""Metrics drawn as dots with whiskers, the first two for every protocol; the table has all."""


def panel(record: RunRecord, position: int, name: str) -> Picture:
    """Draw one metric of every system as dots with whiskers, the model on top."""
    protocol = record.protocols[position]
    rows = [(record.system.name, protocol.model[name])] + [
        (baseline, protocol.baselines[baseline][name])
        for baseline in baselines_by_score(protocol)
        if finite(protocol.baselines[baseline].get(name))
    ]

    def draw(figure: "matplotlib.figure.Figure") -> None:
        axes = figure.subplots()
        model = rows[0][1]
        if interval(model):
            axes.axvspan(model.low, model.high, color=BAND, linewidth=0, zorder=0)
        for place, (_, score) in enumerate(rows):
            colour = MODEL if place == 0 else MUTED
            if interval(score):
                axes.plot([score.low, score.high], [place, place], color=colour, linewidth=1.8)
            axes.plot(
                score.value,
                place,
                "o" if place == 0 else "s",
                color=colour,
                markersize=7 - (place > 0),
            )
            axes.annotate(
                number(score.value, 3),
                (1.0, place),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va="center_baseline",
                color=colour,
                weight="bold" if place == 0 else "normal",
                annotation_clip=False,
            )
        axes.margins(x=0.08)
        axes.set_yticks(range(len(rows)), [written(who) for who, _ in rows])
        axes.get_yticklabels()[0].set(color=MODEL, weight="bold")
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.locator_params(axis="x", nbins=5)
        better = {True: "more is better", False: "less is better", None: ""}[metric(name).higher]
        axes.set_xlabel(better)

    said = ", ".join(
        f"{shown(who)} {number(s.value, 3)} {interval(s, 3)}".strip() for who, s in rows
    )
    return Picture(
        name=f"scores_{position + 1}_{slug(protocol.name)}_{name}",
        title=metric(name).label,
        caption="",
        alt=f"{metric(name).label} with intervals: {said}.",
        svg=drawn(NARROW_INCHES, 0.85 + 0.29 * len(rows), draw),
    )


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


def curves(record: RunRecord) -> Iterator[Picture]:
    """Draw the losses and the other validation metrics over the epochs."""
    if not record.curve:
        return
    names = list(dict.fromkeys(name for row in record.curve for name in row.metrics))
    losses = [name for name in names if metric(name).higher is False and _is_loss(name)]
    rest = [name for name in names if name not in losses]
    training = [("training", [row.loss for row in record.curve])]
    judged = [(f"validation {metric(n).label.lower()}", _column(record, n)) for n in losses]
    if record.objective:
        yield _curve(
            record,
            "objective",
            "Training objective",
            "objective, nats",
            training,
            f"{record.objective}. Not to be compared with log losses.",
        )
        training = []
    if training or judged:
        yield _curve(record, "loss", "Loss over training", "mean log loss, nats", training + judged)
    shares = [n for n in rest if any(math.isfinite(v) for v in _column(record, n))]
    shares = [n for n in shares if n == HEADLINE] or shares[:1]
    for name in shares:
        title = f"Validation {metric(name).label} over training"
        yield _curve(
            record,
            f"validation_{slug(name)}",
            title,
            metric(name).label,
            [("validation", _column(record, name))],
        )


def _is_loss(name: str) -> bool:
    return name == "nll" or "loss" in name


def _column(record: RunRecord, name: str) -> list[float]:
    return [row.metrics.get(name, math.nan) for row in record.curve]


def _curve(
    record: RunRecord,
    name: str,
    title: str,
    unit: str,
    lines: list[tuple[str, list[float]]],
    caption: str = "",
) -> Picture:
    epochs = [row.epoch for row in record.curve]
    colours = tuple(RIVALS[0] if label == "training" else MODEL for label, _ in lines)

    def draw(figure: "matplotlib.figure.Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        for place, (label, values) in enumerate(lines):
            axes.plot(
                epochs,
                values,
                marker="o" if colours[min(place, len(colours) - 1)] == MODEL else "s",
                markersize=4 if len(epochs) <= 40 else 0,
                color=colours[place] if place < len(colours) else RIVALS[place % len(RIVALS)],
                label=label,
            )
        if record.best_epoch is not None:
            axes.axvline(
                record.best_epoch, color=MUTED, linewidth=1, linestyle=(0, (1.5, 2)), label="chosen"
            )
        if len(epochs) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        axes.set(xlabel="epoch", ylabel=unit)
        axes.grid(visible=False, axis="x")
        legend(axes)

    said = "; ".join(
        f"{label} from {number(values[0], 3)} to {number(values[-1], 3)}" for label, values in lines
    )
    return Picture(
        name=name,
        title=title,
        caption=caption,
        alt=f"{title}, {len(epochs)} epochs: {said}.",
        svg=drawn(NARROW_INCHES, 3.0, draw),
    )
