"""What the model believed about one student, concept by concept, as a heat map."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kt_forecast.report.drawing import WIDE_INCHES, Picture, drawn, legend, written
from kt_forecast.report.tracing import Mastery
from kt_forecast.report.words import count, percent, shown

if TYPE_CHECKING:
    import matplotlib.figure

RIGHT = "#fefefe"
WRONG = "#14181f"
UNLIKELY_TO_LIKELY = ("#a8480f", "#e39a5f", "#f4efe6", "#82b1da", "#184f96")

CONCEPT_LENGTH = 34
MASTERY_STEPS = 120
MASTERY_CONCEPTS = 24


@dataclass(frozen=True)
class Window:
    """The part of a mastery frame that fits a page.

    Attributes:
        steps: positions shown, the newest of the student.
        concepts: positions shown, in the order they were first practised.
    """

    steps: range
    concepts: tuple[int, ...]


def window(mastery: Mastery) -> Window:
    """Return the newest steps and, of what they exercise, the concepts practised most."""
    n_steps = len(mastery.responses)
    steps = range(max(0, n_steps - MASTERY_STEPS), n_steps)
    times = dict.fromkeys((c for t in steps for c in mastery.practised[t]), 0)
    for t in steps:
        for concept in mastery.practised[t]:
            times[concept] += 1
    most = set(sorted(times, key=lambda c: -times[c])[:MASTERY_CONCEPTS])
    seen = tuple(c for c in times if c in most)
    return Window(steps, seen or tuple(range(min(len(mastery.concepts), MASTERY_CONCEPTS))))


def heat_map(mastery: Mastery) -> Picture | None:
    """Draw the belief about one student, concepts by steps, with right and wrong answers."""
    view = window(mastery)
    if not view.steps or not view.concepts:
        return None

    def draw(figure: "matplotlib.figure.Figure") -> None:
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        colours = LinearSegmentedColormap.from_list("belief", UNLIKELY_TO_LIKELY)
        axes = figure.subplots()
        first = view.steps[0] + 1
        extent = (first - 0.5, first + len(view.steps) - 0.5, len(view.concepts) - 0.5, -0.5)
        image = axes.imshow(
            [[mastery.p_correct[t][c] for t in view.steps] for c in view.concepts],
            cmap=colours,
            vmin=0,
            vmax=1,
            aspect="auto",
            interpolation="none",
            extent=extent,
        )
        size = max(3.5, min(7.0, 480 / len(view.steps)))
        for answer, marker, colour, edge, label in (
            (1, "o", RIGHT, WRONG, "right"),
            (0, "X", WRONG, RIGHT, "wrong"),
        ):
            spots = [
                (t + 1, row)
                for t in view.steps
                for row, c in enumerate(view.concepts)
                if c in mastery.practised[t] and mastery.responses[t] == answer
            ]
            axes.plot(
                [x for x, _ in spots],
                [y for _, y in spots],
                marker,
                color=colour,
                markeredgecolor=edge,
                markeredgewidth=0.7,
                markersize=size,
                label=f"{label} answer",
                clip_on=False,
            )
        axes.set_yticks(
            range(len(view.concepts)),
            [written(mastery.concepts[c], CONCEPT_LENGTH) for c in view.concepts],
        )
        axes.grid(visible=False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlabel("questions answered")
        for spine in axes.spines.values():
            spine.set_visible(False)
        legend(axes)
        bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.01, aspect=18)
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
        bar.set_ticks([0, 0.5, 1])
        bar.outline.set_visible(False)
        bar.set_label("probability of a right answer")

    return Picture(
        name="mastery",
        title=f"Student {shown(mastery.student)}, concept by concept",
        caption=_mastery_caption(mastery, view),
        alt=_mastery_alt(mastery, view),
        svg=drawn(WIDE_INCHES, 1.25 + 0.27 * max(2, len(view.concepts)), draw),
        wide=True,
    )


def _mastery_caption(mastery: Mastery, view: Window) -> str:
    said = (
        "Each column is one answer; its colour says how probable the model, having seen that "
        "answer, thinks a right answer on each concept. Circles are right answers, crosses wrong "
        "ones, on the concepts the question exercised."
    )
    n_steps = len(mastery.responses)
    if len(view.steps) < n_steps:
        said += f" Shown are the last {len(view.steps)} of {count(n_steps)} answers."
    if len(view.concepts) < len(mastery.concepts):
        said += f" Shown are {len(view.concepts)} of {count(len(mastery.concepts))} concepts."
    return said


def _mastery_alt(mastery: Mastery, view: Window) -> str:
    first, last = view.steps[0], view.steps[-1]
    moves = "; ".join(
        f"{shown(mastery.concepts[c], CONCEPT_LENGTH)} from {percent(mastery.p_correct[first][c])} "
        f"to {percent(mastery.p_correct[last][c])}"
        for c in view.concepts
    )
    return f"Heat map over {len(view.steps)} answers. Belief moves: {moves}."


def changes(mastery: Mastery) -> list[tuple[str, int, int, float, float]]:
    """Return concept, answers, right answers, first and last belief of what the heat map shows."""
    view = window(mastery)
    rows = []
    for c in view.concepts:
        steps = [t for t in view.steps if c in mastery.practised[t]]
        right = sum(mastery.responses[t] for t in steps)
        beliefs = [mastery.p_correct[t][c] for t in view.steps] or [math.nan]
        rows.append((shown(mastery.concepts[c]), len(steps), right, beliefs[0], beliefs[-1]))
    return rows
