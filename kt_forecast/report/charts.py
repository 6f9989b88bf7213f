"""The charts of either task: scores and training."""

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
    written,
)
from kt_forecast.report.forecasting import ForecastProtocol, ForecastRecord
from kt_forecast.report.kinds import AnyProtocol, AnyRecord
from kt_forecast.report.tracing import HEADLINE, RunRecord
from kt_forecast.report.words import (
    baselines_by_score,
    decimals,
    interval,
    metric,
    number,
    shown,
    slug,
)

if TYPE_CHECKING:
    import matplotlib.figure

TRACING_PANELS = (HEADLINE, "auc_within_student", "nll", "ece")
FORECASTING_PANELS = ("mse", "mae", "mase", "wql")
LATER_PANELS = 2
"""Metrics of a protocol after the first that are drawn; the table has all."""
FAR_APART = 30.0
"""Ratio of the largest to the smallest score from which a logarithmic axis shows both."""


def panels(record: AnyRecord) -> Iterator[Picture]:
    """Draw the metrics of every protocol as dots with whiskers."""
    protocols: tuple[AnyProtocol, ...] = record.protocols
    for place, protocol in enumerate(protocols):
        names: tuple[str, ...] = TRACING_PANELS
        if isinstance(protocol, ForecastProtocol):
            names = tuple(dict.fromkeys((protocol.headline, *FORECASTING_PANELS)))[:4]
        for name in names if place == 0 else names[:LATER_PANELS]:
            if finite(protocol.model.get(name)):
                yield panel(record.system.name, protocol, place, name)


def panel(model: str, protocol: AnyProtocol, position: int, name: str) -> Picture:
    """Draw one metric of every system as dots with whiskers, the model on top."""
    rows = [(model, protocol.model[name])] + [
        (baseline, protocol.baselines[baseline][name])
        for baseline in baselines_by_score(protocol)
        if finite(protocol.baselines[baseline].get(name))
    ]
    digits, far = 3, False
    if isinstance(protocol, ForecastProtocol):
        values = [score.value for _, score in rows]
        digits = decimals(values, by=min)
        far = min(values) > 0.0 and max(values) > FAR_APART * min(values)

    def draw(figure: "matplotlib.figure.Figure") -> None:
        axes = figure.subplots()
        ours = rows[0][1]
        if far:
            axes.set_xscale("log")
        if interval(ours):
            axes.axvspan(ours.low, ours.high, color=BAND, linewidth=0, zorder=0)
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
                number(score.value, digits),
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
        if not far:
            axes.locator_params(axis="x", nbins=5)
        better = {True: "more is better", False: "less is better", None: ""}[metric(name).higher]
        axes.set_xlabel(f"{better}, logarithmic axis" if far else better)

    said = ", ".join(
        f"{shown(who)} {number(s.value, digits)} {interval(s, digits)}".strip() for who, s in rows
    )
    return Picture(
        name=f"scores_{position + 1}_{slug(protocol.name)}_{name}",
        title=metric(name).label,
        caption="",
        alt=f"{metric(name).label} with intervals: {said}.",
        svg=drawn(NARROW_INCHES, 0.85 + 0.29 * len(rows), draw),
    )


def curves(record: AnyRecord) -> Iterator[Picture]:
    """Draw the losses and the other validation metrics over the epochs."""
    if not record.curve:
        return
    names = list(dict.fromkeys(name for row in record.curve for name in row.metrics))
    losses = [name for name in names if metric(name).higher is False and _is_loss(name)]
    rest = [name for name in names if name not in losses]
    training = [("training", [row.loss for row in record.curve])]
    judged = [(f"validation {metric(n).label.lower()}", _column(record, n)) for n in losses]
    unit, others = "mean log loss, nats", "log losses"
    if isinstance(record, ForecastRecord):
        unit, others = "mean loss", "the scores"
    if record.objective:
        yield _curve(
            record,
            "objective",
            "Training objective",
            "objective, nats" if isinstance(record, RunRecord) else "mean loss",
            training,
            f"{record.objective}. Not to be compared with {others}.",
        )
        training = []
    if training or judged:
        yield _curve(record, "loss", "Loss over training", unit, training + judged)
    shares = [n for n in rest if any(math.isfinite(v) for v in _column(record, n))]
    headline = record.protocols[0].headline if record.protocols else HEADLINE
    shares = [n for n in shares if n == headline] or shares[:1]
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


def _column(record: AnyRecord, name: str) -> list[float]:
    return [row.metrics.get(name, math.nan) for row in record.curve]


def _curve(
    record: AnyRecord,
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
