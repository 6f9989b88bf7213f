"""What a study of settings leaves: one HTML file beside its record."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from kt_forecast.report import words
from kt_forecast.report.drawing import (
    LINES,
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
from kt_forecast.report.record import Number, Plain

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

SHOWN_FIELDS = 10
"""Fields with the largest importance that the parallel axes show."""
SHOWN_TRIALS = 400


@dataclass(frozen=True, kw_only=True)
class TrialFacts(Plain):
    """One trial.

    Attributes:
        number: counted from 0.
        state: how it ended.
        value: its score; of a trial that was not completed, the last one it reported.
        params: what it tried, by dotted name, as text.
        places: where on its field's axis each value lies, from 0 to 1.
        seconds: how long it took.
        epochs: how many it trained.
        parameters: how many numbers were trained.
        flops: operations of a prediction, where they were counted.
        reason: why it was not completed.
        is_default: whether it tries the recipe as it stands.
        curve: best score up to each epoch.
        by_seed: its score with each seed.
    """

    number: int
    state: str
    value: Number
    params: dict[str, str]
    places: dict[str, Number]
    seconds: Number = 0.0
    epochs: int = 0
    parameters: int | None = None
    flops: float | None = None
    reason: str = ""
    is_default: bool = False
    curve: tuple[tuple[int, Number], ...] = ()
    by_seed: dict[str, Number] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean score over its seeds."""
        values = list(self.by_seed.values()) or [self.value]
        return sum(values) / len(values)


@dataclass(frozen=True, kw_only=True)
class StudyFacts(Plain):
    """The search of one system.

    Attributes:
        name: of the study in its storage.
        system: that was searched.
        trials: one for each place of the budget, oldest first.
        fields: dotted names of what was searched, each with how its axis is marked at both ends.
        winner: number of the best trial.
        changed: fields in which the winner differs from the recipe: name, recipe's, winner's.
        importance: share of the score's variation that each field explains.
        front: trials that no other beats in score and cost at once.
        n_lost: trials whose process died; each was tried once more.
        notes: what was left out, one sentence each.
    """

    name: str
    system: str
    trials: tuple[TrialFacts, ...]
    fields: dict[str, tuple[str, str]]
    winner: int | None = None
    changed: tuple[tuple[str, str, str], ...] = ()
    importance: dict[str, Number] = field(default_factory=dict)
    front: tuple[int, ...] = ()
    n_lost: int = 0
    notes: tuple[str, ...] = ()

    def trial(self, number: int) -> TrialFacts:
        """Return a trial by its number."""
        return next(one for one in self.trials if one.number == number)

    @property
    def best(self) -> TrialFacts | None:
        """The winner."""
        return None if self.winner is None else self.trial(self.winner)

    @property
    def default(self) -> TrialFacts | None:
        """The recipe as it stands, where its trial was completed."""
        found = [one for one in self.trials if one.is_default and one.state == "complete"]
        return found[0] if found else None

    def count(self, state: str) -> int:
        """Return how many trials ended so."""
        return sum(one.state == state for one in self.trials)

    @property
    def hours(self) -> float:
        """Time of all trials together."""
        return sum(one.seconds for one in self.trials) / 3600


@dataclass(frozen=True, kw_only=True)
class TuningRecord(Plain):
    """A study of the settings of one system, or of several.

    Attributes:
        title: of the study.
        created: when the report was written.
        data: name of the data.
        split: how the rows are divided.
        metric: that validation is judged by.
        direction: whether a higher (``max``) or lower (``min``) one is better.
        sampler: how settings were chosen.
        pruner: what ended trials early.
        cost: what the chart of cost shows.
        seed: of the trials.
        studies: one for each system.
        best: place of the winner's study.
        score: of the winner's recipe, with the study's seed, as this machine gives it again.
        settings: the winner's recipe.
        storage: where the trials are kept.
        command: that goes on with the study.
        train: that trains the winner.
        environment: versions and machine.
        code_version: of the program.
    """

    title: str
    created: str
    data: str
    split: str
    metric: str
    direction: str
    sampler: str
    pruner: str
    cost: str
    seed: int
    studies: tuple[StudyFacts, ...]
    best: int
    score: Number
    settings: dict[str, Any]
    storage: str
    command: str
    train: str
    environment: dict[str, str]
    code_version: str

    @property
    def study(self) -> StudyFacts:
        """The winner's study."""
        return self.studies[self.best]

    @property
    def default(self) -> TrialFacts | None:
        """The recipe as it stands."""
        return self.studies[0].default

    def better(self, new: float, old: float) -> bool:
        """Return whether ``new`` is a better score than ``old``."""
        return new > old if self.direction == "max" else new < old

    @property
    def gain(self) -> float:
        """Score of the winner less that of the recipe, over the seeds that both have."""
        best, default = self.study.best, self.default
        if best is None or default is None:
            return math.nan
        shared = [s for s in best.by_seed if s in default.by_seed]
        if not shared:
            return best.value - default.value
        return sum(best.by_seed[s] - default.by_seed[s] for s in shared) / len(shared)

    def answer(self) -> str:
        """Say in a sentence or two what the study found."""
        best, default = self.study.best, self.default
        label = words.metric(self.metric).label
        if best is None:
            return "No trial was completed."
        n_seeds = len(best.by_seed)
        over = f", the mean of {n_seeds} seeds" if n_seeds > 1 else ""
        found = (
            f"The best settings, those of {words.shown(self.study.system)} in trial {best.number},"
            f" reach a validation {label} of {words.number(best.mean)}{over}."
        )
        if default is None:
            return f"{found} The recipe as it stands was not completed."
        if best.is_default:
            return f"{found} They are the recipe's own: nothing that was tried is better."
        return (
            f"{found} The recipe as it stands reaches {words.number(default.mean)}: a difference"
            f" of {words.signed(self.gain)}."
        )

    def to_json(self) -> str:
        """Return the record as JSON; a number that is not finite is null."""
        return json.dumps(_finite(asdict(self)), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "TuningRecord":
        """Return the record that `to_json` wrote."""
        return TypeAdapter(cls).validate_json(text)


def render_tuning(record: TuningRecord) -> str:
    """Return the report as one HTML document without scripts or outside references."""
    found = {place: _pictures(record, place) for place in range(len(record.studies))}
    everything = [picture for part in found.values() for picture in part]
    return (
        environment()
        .get_template("tuning.html.jinja")
        .render(
            record=record,
            words=words,
            drawn=found,
            inline={picture.name: inline(picture) for picture in everything},
            settings=list(flat(record.settings)),
            link=link,
        )
    )


def _pictures(record: TuningRecord, place: int) -> list[Picture]:
    study = record.studies[place]
    done = [one for one in study.trials if one.state == "complete"]
    found = [history(record, study, place)]
    if any(one.curve for one in study.trials):
        found.append(curves(record, study, place))
    if study.importance:
        found.append(importance(study, place))
    if any(_cost(record, one) is not None for one in done):
        found.append(front(record, study, place))
    if len(done) > 1:
        found.append(parallel(record, study, place))
    return found


def history(record: TuningRecord, study: StudyFacts, place: int = 0) -> Picture:
    """Draw the score of each trial, and the best so far."""
    done = [one for one in study.trials if one.state == "complete"]
    pruned = [one for one in study.trials if one.state == "pruned" and math.isfinite(one.value)]
    best, line = math.nan, []
    for one in done:
        if math.isnan(best) or record.better(one.value, best):
            best = one.value
        line.append(best)

    def draw(figure: "matplotlib.figure.Figure") -> None:
        axes = figure.subplots()
        axes.plot(*_points(pruned), "x", color=MUTED, markersize=5, label="pruned")
        axes.plot(*_points(done), "o", color=MODEL, markersize=5, label="completed")
        numbers = [one.number for one in done]
        axes.step(numbers, line, where="post", color=MODEL, linewidth=1.4, label="best so far")
        _mark(axes, study)
        axes.set_xlabel("trial")
        axes.set_ylabel(f"validation {words.metric(record.metric).label}")
        legend(axes, 2)
        _whole(axes)

    return Picture(
        name=f"history_{place}",
        title="Trials in their order",
        caption="A pruned trial is shown with the best score that it had when it was ended. The "
        "square is the recipe as it stands.",
        alt=f"Score by trial; the best is {words.number(best)} after {len(study.trials)} trials.",
        svg=drawn(NARROW_INCHES, 3.2, draw),
    )


def curves(record: TuningRecord, study: StudyFacts, place: int = 0) -> Picture:
    """Draw what the pruner saw: the best score up to each epoch of each trial."""

    def draw(figure: "matplotlib.figure.Figure") -> None:
        axes = figure.subplots()
        for one in study.trials[:SHOWN_TRIALS]:
            if one.curve and one.number != study.winner:
                colour = LINES if one.state != "complete" else MUTED
                axes.plot(*zip(*one.curve, strict=True), color=colour, linewidth=0.9)
        if study.best is not None and study.best.curve:
            line = zip(*study.best.curve, strict=True)
            axes.plot(*line, color=MODEL, linewidth=2.0, label=f"trial {study.winner}")
            legend(axes)
        axes.set_xlabel("epoch")
        _whole(axes)
        axes.set_ylabel(f"best {words.metric(record.metric).label} so far")

    return Picture(
        name=f"curves_{place}",
        title="What the pruner saw",
        caption="Best validation score up to each epoch. Light lines were pruned; the strong one "
        "is the winner.",
        alt=f"Learning curves of {len(study.trials)} trials.",
        svg=drawn(NARROW_INCHES, 3.2, draw),
    )


def importance(study: StudyFacts, place: int = 0) -> Picture:
    """Draw which fields matter."""
    ranked = sorted(study.importance.items(), key=lambda pair: -pair[1])[:SHOWN_FIELDS]

    def draw(figure: "matplotlib.figure.Figure") -> None:
        axes = figure.subplots()
        axes.barh(range(len(ranked)), [value for _, value in ranked], color=MODEL, height=0.6)
        axes.set_yticks(range(len(ranked)), [words.shown(name, 30) for name, _ in ranked])
        axes.set_ylim(len(ranked) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel("share of the variation explained")

    said = ", ".join(f"{name} {value:.2f}" for name, value in ranked)
    return Picture(
        name=f"importance_{place}",
        title="Which fields matter",
        caption="By an analysis of variance of the completed trials (PED-ANOVA, Watanabe et al. "
        "2023). Of few trials it is a hint, no more.",
        alt=f"Importance: {said}.",
        svg=drawn(NARROW_INCHES, 0.8 + 0.28 * len(ranked), draw),
    )


def front(record: TuningRecord, study: StudyFacts, place: int = 0) -> Picture:
    """Draw score against cost, and the trials that no other beats in both."""
    priced = [
        (cost, one)
        for one in study.trials
        if one.state == "complete" and (cost := _cost(record, one)) is not None
    ]
    best = [(cost, one) for cost, one in priced if one.number in study.front]
    best.sort(key=lambda pair: pair[0])

    def draw(figure: "matplotlib.figure.Figure") -> None:
        axes = figure.subplots()
        axes.plot([c for c, _ in priced], [t.value for _, t in priced], "o", color=MUTED,
                  markersize=5, label="completed")  # fmt: skip
        line = [c for c, _ in best], [t.value for _, t in best]
        axes.step(*line, where="post", color=MODEL, linewidth=1.4)
        axes.plot(*line, "D", color=MODEL, markersize=6, label="Pareto front")
        default = study.default
        if default is not None and (cost := _cost(record, default)) is not None:
            axes.plot(cost, default.value, "s", color=RIVALS[0], markersize=7, label="the recipe")
        if len({cost for cost, _ in priced}) > 1:
            axes.set_xscale("log")
            _plainly(axes)
        axes.set_xlabel(_COSTS[record.cost])
        axes.set_ylabel(f"validation {words.metric(record.metric).label}")
        legend(axes)

    said = "; ".join(f"trial {t.number}: {c:,.0f}, {words.number(t.value)}" for c, t in best)
    return Picture(
        name=f"front_{place}",
        title="Score against cost",
        caption="No other trial is both cheaper and better than one on the front.",
        alt=f"Pareto front: {said}.",
        svg=drawn(NARROW_INCHES, 3.2, draw),
    )


def parallel(record: TuningRecord, study: StudyFacts, place: int = 0) -> Picture:
    """Draw completed trials as lines through the axes of their fields."""
    done = [one for one in study.trials if one.state == "complete"][-SHOWN_TRIALS:]
    names = sorted(study.fields, key=lambda name: -study.importance.get(name, 0.0))[:SHOWN_FIELDS]
    values = [one.value for one in done]
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def height(one: TrialFacts) -> float:
        return (one.value - low) / span

    def draw(figure: "matplotlib.figure.Figure") -> None:
        from matplotlib import colormaps

        axes = figure.subplots()
        colours = colormaps["viridis" if record.direction == "max" else "viridis_r"]
        worst_first = sorted(done, key=lambda one: one.value, reverse=record.direction == "min")
        for one in worst_first:
            line = [*(one.places.get(name, math.nan) for name in names), height(one)]
            is_best = one.number == study.winner
            axes.plot(
                range(len(line)),
                line,
                color=MODEL if is_best else colours(height(one)),
                linewidth=2.6 if is_best else 0.9,
                alpha=1.0 if is_best else 0.7,
            )
        ends = [*(study.fields[name] for name in names), (words.number(low), words.number(high))]
        for at, (bottom, top) in enumerate(ends):
            axes.axvline(at, color=MUTED, linewidth=0.8)
            for text, y, va in ((bottom, -0.03, "top"), (top, 1.03, "bottom")):
                axes.text(at, y, words.shown(text, 12), ha="center", va=va, fontsize=7, color=MUTED)
        shown = [*(words.shown(name.split(".")[-1], 18) for name in names), record.metric]
        axes.set_xticks(range(len(shown)), shown, rotation=30, ha="right", fontsize=8)
        axes.tick_params(length=0, pad=12)
        axes.set_yticks([])
        axes.set_ylim(-0.12, 1.12)
        axes.grid(visible=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)

    return Picture(
        name=f"parallel_{place}",
        title="What was tried",
        caption="One line a completed trial, through the value of each field to its score on the "
        "right; the fields that matter most stand on the left, and the thick line is the winner.",
        alt=f"Parallel axes of {len(done)} completed trials over {', '.join(names)}.",
        svg=drawn(WIDE_INCHES, 3.8, draw),
        wide=True,
    )


_COSTS = {"parameters": "numbers trained", "flops": "operations of a prediction"}


def _cost(record: TuningRecord, one: TrialFacts) -> float | None:
    cost = one.parameters if record.cost == "parameters" else one.flops
    return None if cost is None else float(cost)


def _points(trials: Sequence[TrialFacts]) -> tuple[list[int], list[float]]:
    return [one.number for one in trials], [one.value for one in trials]


def _whole(axes: "matplotlib.axes.Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _plainly(axes: "matplotlib.axes.Axes") -> None:
    """Write powers of ten as numbers, which needs no typesetting of formulas."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _mark(axes: "matplotlib.axes.Axes", study: StudyFacts) -> None:
    default = study.default
    if default is not None:
        axes.plot(
            default.number, default.value, "s", color=RIVALS[0], markersize=7, label="the recipe"
        )


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
