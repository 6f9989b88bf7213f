"""What the study of Informer's pooling leaves: one HTML file beside its record."""

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from kt_forecast.report import words
from kt_forecast.report.drawing import (
    MODEL,
    MUTED,
    NARROW_INCHES,
    RIVALS,
    WIDE_INCHES,
    Picture,
    drawn,
    legend,
)
from kt_forecast.report.page import environment, flat, inline, link
from kt_forecast.report.record import Citation, CurveRow, Number, Plain, Score

if TYPE_CHECKING:
    import matplotlib.figure

NEAR = 6
"""Steps before and after the replaced answer that the chart by distance shows."""


@dataclass(frozen=True, kw_only=True)
class PoolingFacts(Plain):
    """What one kind of pooling does.

    Attributes:
        name: ``causal`` or ``published``.
        at_once: metrics of predictions made in one pass over each student's whole history.
        step_by_step: metrics where each prediction is given only what came before it.
        invented: the first less the second, on the same students.
        largest_gap: the largest difference of a prediction between the two.
        moved: by step replaced and step predicted, the mean change of the probability.
        share_moved: share of the pairs in which an answer moved a prediction that it must not.
        verdict: the auditor's word.
        finding: what the auditor found first; empty where nothing.
        curve: one row an epoch.
        best_epoch: the one that validation chose.
        n_parameters: numbers trained.
    """

    name: str
    at_once: dict[str, Score]
    step_by_step: dict[str, Score]
    invented: dict[str, Score]
    largest_gap: Number
    moved: tuple[tuple[Number, ...], ...]
    share_moved: Number
    verdict: str
    finding: str = ""
    curve: tuple[CurveRow, ...] = ()
    best_epoch: int | None = None
    n_parameters: int = 0


@dataclass(frozen=True, kw_only=True)
class PoolingStudy(Plain):
    """Published and causal pooling, trained alike on the same rows.

    Attributes:
        title: name of the run.
        created: when.
        data: name of the data.
        split: how the rows were divided.
        n_students: test students.
        n_answers: test answers scored.
        most_steps: steps of a student that were read, from the first.
        n_mapped: students behind the leak map.
        interval: what ``low`` and ``high`` of a score are.
        poolings: the causal one first.
        honest: metrics of the published pooling less those of the causal one, both step by step.
        settings: everything that was set.
        environment: versions and machine.
        code_version: of the program.
        command: that makes this again.
        paper: where the published pooling comes from.
    """

    title: str
    created: str
    data: str
    split: str
    n_students: int
    n_answers: int
    most_steps: int
    n_mapped: int
    interval: str
    poolings: tuple[PoolingFacts, PoolingFacts]
    honest: dict[str, Score]
    settings: dict[str, Any]
    environment: dict[str, str]
    code_version: str
    command: str
    paper: Citation

    @property
    def published(self) -> PoolingFacts:
        """The pooling in question."""
        return self.poolings[1]

    @property
    def leaks(self) -> bool:
        """Whether later answers move predictions of the published pooling."""
        return self.published.share_moved > 0.0

    def answer(self) -> str:
        """Answer the question of the study in a sentence or two."""
        one = self.published
        if not self.leaks:
            return "No: no later answer moved a prediction of the published pooling here."
        gap = one.invented["auc"]
        return (
            f"Yes: with the published pooling, {words.percent(one.share_moved)} of the answers that"
            " a prediction must not know move it. Read in one pass it reaches an AUC of"
            f" {words.number(one.at_once['auc'].value, 3)}, step by step"
            f" {words.number(one.step_by_step['auc'].value, 3)}: the leak invents"
            f" {words.signed(gap.value, 3)} {words.interval(gap, 3)}."
        )

    def to_json(self) -> str:
        """Return the record as JSON; a number that is not finite is null."""
        return json.dumps(_finite(asdict(self)), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "PoolingStudy":
        """Return the record that `to_json` wrote."""
        return TypeAdapter(cls).validate_json(text)


def render_study(study: PoolingStudy) -> str:
    """Return the report as one HTML document without scripts or outside references."""
    found = [leak_map(study), by_distance(study), aucs(study)]
    return (
        environment()
        .get_template("study.html.jinja")
        .render(
            record=study,
            words=words,
            pictures={picture.name: picture for picture in found},
            inline={picture.name: inline(picture) for picture in found},
            settings=list(flat(study.settings)),
            link=link,
        )
    )


def leak_map(study: PoolingStudy) -> Picture:
    """Draw which answers move which predictions, for both kinds of pooling."""
    most = max(max(map(max, one.moved)) for one in study.poolings)
    steps = len(study.published.moved)

    def draw(figure: "matplotlib.figure.Figure") -> None:
        from matplotlib.colors import LogNorm

        panels = figure.subplots(1, 2, sharey=True)
        least = max(most, 1e-6) * 1e-4
        for axes, one in zip(panels, study.poolings, strict=True):
            image = axes.imshow(
                [[cell if cell > 0 else math.nan for cell in row] for row in one.moved],
                norm=LogNorm(least, max(most, 1e-6)),
                cmap="viridis",
                interpolation="none",
                origin="upper",
                extent=(0.5, steps + 0.5, steps + 0.5, 0.5),
            )
            axes.plot([0.5, steps + 0.5], [0.5, steps + 0.5], color=RIVALS[0], linewidth=1.2)
            axes.set_title(f"{one.name} pooling", fontsize=10)
            axes.set_xlabel("prediction of step")
            axes.grid(visible=False)
            axes.tick_params(length=0)
        panels[0].set_ylabel("answer replaced at step")
        bar = figure.colorbar(
            image, ax=list(panels), fraction=0.03, pad=0.01, aspect=22, format="{x:g}"
        )
        bar.minorticks_off()
        bar.outline.set_visible(False)
        bar.set_label("mean change of the probability")

    shares = "; ".join(
        f"{one.name}: {words.percent(one.share_moved)} of the forbidden pairs move"
        for one in study.poolings
    )
    return Picture(
        name="leak_map",
        title="Which answers move which predictions",
        caption=(
            "A single answer is replaced (rows) and every prediction watched (columns), over "
            f"{words.count(study.n_mapped)} test students. An answer may move predictions to the "
            "right of the line only; on and left of it nothing may be coloured. Blank cells did "
            "not move at all."
        ),
        alt=f"Two heat maps, step replaced by step predicted. {shares}.",
        svg=drawn(WIDE_INCHES, 4.3, draw),
        wide=True,
    )


def by_distance(study: PoolingStudy) -> Picture:
    """Draw the mean change by how far the prediction lies after the answer."""
    distances = list(range(-NEAR, NEAR + 1))
    found = {
        one.name: [_mean_on_diagonal(one.moved, distance) for distance in distances]
        for one in study.poolings
    }

    def draw(figure: "matplotlib.figure.Figure") -> None:
        axes = figure.subplots()
        for place, (name, values) in enumerate(found.items()):
            axes.bar(
                [d + 0.4 * (place - 0.5) for d in distances],
                values,
                width=0.4,
                color=(MODEL, RIVALS[0])[place],
                label=f"{name} pooling",
            )
        axes.axvline(0.5, color=MUTED, linewidth=1.0, linestyle="--")
        axes.set_xlabel("step predicted, counted from the answer replaced")
        axes.set_ylabel("mean change of the probability")
        axes.grid(visible=False, axis="x")
        legend(axes)

    said = "; ".join(
        f"{name}: " + ", ".join(f"{d:+d} {v:.4f}" for d, v in zip(distances, values, strict=True))
        for name, values in found.items()
    )
    return Picture(
        name="by_distance",
        title="How far back an answer reaches",
        caption=(
            "Left of the dashed line are predictions made before the answer was given, its own "
            "among them, at nought: an honest model has no bars there."
        ),
        alt=f"Mean change by distance. {said}.",
        svg=drawn(NARROW_INCHES, 3.2, draw),
    )


def aucs(study: PoolingStudy) -> Picture:
    """Draw the AUC of both kinds of pooling, in one pass and step by step."""
    rows = [
        (f"{one.name}, {way}", score, place)
        for place, one in enumerate(study.poolings)
        for way, score in (
            ("in one pass", one.at_once["auc"]),
            ("step by step", one.step_by_step["auc"]),
        )
    ]

    def draw(figure: "matplotlib.figure.Figure") -> None:
        axes = figure.subplots()
        for at, (_, score, place) in enumerate(rows):
            colour = (MODEL, RIVALS[0])[place]
            axes.plot([score.low, score.high], [at, at], color=colour, linewidth=1.8)
            axes.plot(score.value, at, "o" if place == 0 else "s", color=colour, markersize=7)
            axes.annotate(
                words.number(score.value, 3),
                (1.0, at),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va="center_baseline",
                color=colour,
                annotation_clip=False,
            )
        axes.margins(x=0.08)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel("AUC")

    said = ", ".join(f"{name} {words.number(score.value, 3)}" for name, score, _ in rows)
    return Picture(
        name="aucs",
        title="AUC, and what the leak invents",
        caption="In one pass the model is given whole histories; step by step, only what came "
        "before each prediction. A causal model cannot tell the two apart.",
        alt=f"AUC with intervals: {said}.",
        svg=drawn(NARROW_INCHES, 2.3, draw),
    )


def _mean_on_diagonal(moved: tuple[tuple[float, ...], ...], distance: int) -> float:
    cells = [moved[t][t + distance] for t in range(len(moved)) if 0 <= t + distance < len(moved)]
    return sum(cells) / len(cells) if cells else 0.0


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
