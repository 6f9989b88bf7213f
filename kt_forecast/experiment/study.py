"""Does the pooling of Informer's distilling leak in knowledge tracing, and what does that invent?

Two mixers that differ only in what stands between their layers, the published distilling and the
causal one, are trained alike. Single answers are then replaced, and it is watched which predictions
move. And the test students are scored twice: in one pass over whole histories, and with each
prediction made from nothing but what came before it. What the first scores more is invented.
"""

import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from kt_forecast.data.splits import Role
from kt_forecast.errors import InputError
from kt_forecast.evaluation import Scores, compare, evaluate
from kt_forecast.experiment import facts, tables
from kt_forecast.experiment.auditing import audit_fitted
from kt_forecast.experiment.flow import Rows, prepare, resolved
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.stored import RECIPE, REPORT, SHOWN, home
from kt_forecast.metrics import Estimate
from kt_forecast.nn.system import System
from kt_forecast.report import Score
from kt_forecast.report.study import PoolingFacts, PoolingStudy, render_study
from kt_forecast.sequences.batching import STEPS_PER_BATCH, Pieces, collate
from kt_forecast.sequences.collect import Collector
from kt_forecast.sequences.interactions import StudentSequences
from kt_forecast.tasks.knowledge_tracing import Tracer
from kt_forecast.tracer import Plan, fit_plan, plan
from kt_forecast.training import Epoch, device_named

Say = Callable[[str], None]

INFORMER = "informer"
POOLINGS: tuple[Literal["causal"], Literal["published"]] = ("causal", "published")
STUDY = "study.json"
MOST_STEPS = 100
"""Steps of a student that are read where the recipe sets no history: every prediction is made from
a prefix of its own, and prefixes cost the square of the length."""
MAP_STEPS = 32
MAP_STUDENTS = 24
EXACT = 1e-6
"""Changes of a probability up to this are rounding."""


@dataclass(frozen=True)
class StudyRun:
    """A finished study.

    Attributes:
        folder: holds recipe, record and report.
        record: everything that the report shows.
    """

    folder: Path
    record: PoolingStudy

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return self.folder.name

    def tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        """Return title, header and rows of the scores."""
        record = self.record
        metrics = [name for name in SHOWN if name in record.published.at_once]
        rows = []
        for one in record.poolings:
            for way, scores in (
                ("in one pass", one.at_once),
                ("step by step", one.step_by_step),
                ("invented", one.invented),
            ):
                cells = (_worded(scores[name], interval=name == "auc") for name in metrics)
                rows.append((f"{one.name}, {way}", *cells))
        title = f"{record.n_answers:,} answers of {record.n_students:,} test students"
        return [(title, ("pooling", *(SHOWN[name] for name in metrics)), rows)]

    def closing(self) -> list[str]:
        """Return the sentences that end a study."""
        return [
            self.record.answer(),
            f"AUC with {self.record.interval[:1].lower()}{self.record.interval[1:]}",
            f"run: {self.name}, in {self.folder}",
            f"report: {(self.folder / REPORT).resolve().as_uri()}",
        ]


@dataclass(frozen=True)
class Prefixes:
    """A predictor that is given, for every step, only the steps up to it.

    Rows of a batch have one length, so that no padding takes part.

    Attributes:
        tracer: the model.
        device: where it computes.
    """

    tracer: Tracer
    device: str

    def predict(
        self,
        sequences: StudentSequences,
        *,
        history: int | None = None,
        unit: Literal["steps", "rows"] = "steps",
    ) -> npt.NDArray[np.float64]:
        """Return p_correct of each scored step; see `kt_forecast.evaluation.Predictor`."""
        del history, unit
        scored = sequences.scored.numpy()
        collected = Collector(scored)
        start = sequences.start.numpy()
        longest = int(np.diff(start).max(initial=0))
        tracer = self.tracer.to(self.device).eval()
        for length in range(1, longest + 1):
            begin = start[:-1][np.diff(start) >= length]
            begin = begin[scored[begin + length - 1]]
            rows = max(1, STEPS_PER_BATCH // length)
            for at in range(0, len(begin), rows):
                some = begin[at : at + rows]
                alike = np.full_like(some, length)
                batch = collate(sequences, Pieces(some, alike, alike - 1)).to(self.device)
                with torch.inference_mode():
                    logits, _ = tracer(batch)
                collected.add(batch, logits.double().sigmoid())
        return collected.result()


def pooling_study(
    recipe: Recipe | Path, *, runs: Path, device: str = "auto", say: Say = print
) -> StudyRun:
    """Train both kinds of pooling on the same rows, and show what the published one reveals.

    Args:
        recipe: the data, the split and the settings of the mixer; ``pooling`` is the study's own.
        runs: folder of the runs.
        device: a torch device, or ``auto``.
        say: told what happens, one sentence at a time.

    Raises:
        InputError: the recipe is of another system, or a setting or the table cannot be used.
        TrainingError: a number in training is not finite.
    """
    recipe = Recipe.read(recipe) if isinstance(recipe, Path) else recipe
    if recipe.model.system != INFORMER:
        raise InputError(
            f"the study of pooling is of {INFORMER!r}, and model.system is"
            f" {recipe.model.system!r}; accepted is a recipe of {INFORMER!r}"
        )
    most = recipe.history or MOST_STEPS
    chosen = plan(
        INFORMER,
        recipe.model.settings | {"pooling": POOLINGS[0]},
        recipe.tracing,
        recipe.training,
        history=most,
        seed=recipe.seed,
    )
    interactions = tables.load(recipe.data)
    say(f"{interactions.name}: {len(interactions):,} interactions")
    rows = prepare(recipe, interactions)
    test = first_steps(rows.parts[Role.TEST], most)
    found, scores = [], []
    for pooling in POOLINGS:
        one, honest = _one(pooling, chosen, rows, test, recipe, device, say)
        found.append(one)
        scores.append(honest)
    resampling = {"resamples": recipe.evaluation.bootstraps, "seed": recipe.seed}
    folder = home(runs, recipe.title())
    part = chosen.part
    assert isinstance(part, System)  # noqa: S101 - the zoo holds nothing else
    record = PoolingStudy(
        title=folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data=interactions.name,
        split=facts.split(rows.roles, interactions).scheme,
        n_students=scores[0].n_students,
        n_answers=scores[0].n_rows,
        most_steps=most,
        n_mapped=len(_mapped(test)),
        interval="95 % intervals over students drawn with replacement",
        poolings=(found[0], found[1]),
        honest=_plain(compare(scores[1], scores[0], **resampling)),
        settings=resolved(recipe, chosen),
        environment=facts.environment(str(device_named(device))),
        code_version=facts.code(),
        command=f"kt-forecast study pooling {shlex.quote(str(folder / RECIPE))}",
        paper=facts.citation(part.paper),
    )
    _write(folder, recipe, record)
    return StudyRun(folder, record)


def leak_map(
    tracer: Tracer, sequences: StudentSequences, *, device: str = "cpu"
) -> tuple[npt.NDArray[np.float64], float]:
    """Replace single answers and see which predictions move.

    Args:
        tracer: the model.
        sequences: students; the first steps of some that have enough of them are read.
        device: where it computes.

    Returns:
        By step replaced and step predicted, the mean change of the probability, 0 where rounding
        alone moved it; and the share of the pairs that must not move and did.
    """
    tracer = tracer.to(device).eval()
    start = _mapped(sequences)
    steps = _map_steps(sequences)
    total = np.zeros((steps, steps))
    moved = forbidden = 0
    for begin in start:
        length = np.array([steps])
        one = collate(sequences, Pieces(np.array([begin]), length, length * 0)).to(device)
        every = one.map(lambda x: x.repeat(steps + 1, *([1] * (x.ndim - 1))))
        flip = torch.eye(steps + 1, steps, dtype=torch.bool, device=every.response.device)
        every = replace(every, response=torch.where(flip, 1 - every.response, every.response))
        with torch.inference_mode():
            p_correct = tracer(every)[0].double().sigmoid().cpu().numpy()
        change = np.abs(p_correct[:-1] - p_correct[-1])
        change[change <= EXACT] = 0.0
        event = one.event[0].cpu().numpy()
        early = event[None, :] <= event[:, None]
        moved += int((change[early] > 0).sum())
        forbidden += int(early.sum())
        total += change
    return total / max(len(start), 1), moved / max(forbidden, 1)


def first_steps(sequences: StudentSequences, most: int) -> StudentSequences:
    """Return the first steps of every student."""
    start = sequences.start.numpy()
    length = np.diff(start)
    kept = np.arange(sequences.n_steps) - np.repeat(start[:-1], length) < most
    offset = sequences.concept_start.numpy()
    size = np.diff(offset)
    keep, concepts = torch.from_numpy(kept), torch.from_numpy(np.repeat(kept, size))
    return replace(
        sequences,
        start=torch.from_numpy(np.concatenate([[0], np.cumsum(np.minimum(length, most))])),
        question=sequences.question[keep],
        concept_start=torch.from_numpy(np.concatenate([[0], np.cumsum(size[kept])])),
        concept=sequences.concept[concepts],
        response=sequences.response[keep],
        event=sequences.event[keep],
        seconds=None if sequences.seconds is None else sequences.seconds[keep],
        extras=sequences.extras[keep],
        row=sequences.row[keep],
        scored=sequences.scored[keep],
        own=None if sequences.own is None else sequences.own[keep],
    )


def _one(
    pooling: Literal["causal", "published"],
    chosen: Plan,
    rows: Rows,
    test: StudentSequences,
    recipe: Recipe,
    device: str,
    say: Say,
) -> tuple[PoolingFacts, Scores]:
    """Train one kind, map what moves it, and score it both ways; the honest scores come too."""
    say(f"training with {pooling} pooling")
    settings = chosen.settings.model_copy(update={"pooling": pooling})
    fitted = fit_plan(
        replace(chosen, settings=settings),
        rows.parts[Role.TRAIN],
        rows.parts[Role.VALID],
        rows.vocabulary,
        callbacks=[_said(say)],
        device=device,
        unlawful=True,
    )
    tracer = fitted.tracer
    assert tracer is not None  # noqa: S101 - a system is a tracer
    report = audit_fitted(fitted, rows.parts[Role.TRAIN])
    moved, share = leak_map(tracer, test, device=fitted.device)
    say(f"{pooling} pooling: {share:.1%} of the answers that must not move a prediction move it")
    resampling = {"resamples": recipe.evaluation.bootstraps, "seed": recipe.seed}
    at_once = evaluate(fitted, test, "full", **resampling)
    say(f"{pooling} pooling, in one pass: AUC {at_once.metrics['auc'].value:.4f}")
    honest = evaluate(Prefixes(tracer, fitted.device), test, "full", **resampling)
    say(f"{pooling} pooling, step by step: AUC {honest.metrics['auc'].value:.4f}")
    gap = np.abs(at_once.answers.p_correct - honest.answers.p_correct)
    return PoolingFacts(
        name=pooling,
        at_once=_plain(at_once.metrics),
        step_by_step=_plain(honest.metrics),
        invented=_plain(compare(at_once, honest, **resampling)),
        largest_gap=float(gap.max()),
        moved=tuple(tuple(row) for row in moved.tolist()),
        share_moved=share,
        verdict=report.verdict,
        finding=str(report.findings[0]) if report.findings else "",
        curve=facts.curve(fitted),
        best_epoch=fitted.best_epoch,
        n_parameters=fitted.n_parameters or 0,
    ), honest


def _mapped(sequences: StudentSequences) -> npt.NDArray[np.int64]:
    """Return where the students of the leak map begin."""
    start = sequences.start.numpy()
    return start[:-1][np.diff(start) >= _map_steps(sequences)][:MAP_STUDENTS]


def _map_steps(sequences: StudentSequences) -> int:
    """Return how many steps the leak map has: fewer where no student has enough."""
    return int(min(MAP_STEPS, np.diff(sequences.start.numpy()).max(initial=1)))


def _plain(estimates: dict[str, Estimate]) -> dict[str, Score]:
    return {name: facts.score(one) for name, one in estimates.items()}


def _said(say: Say) -> Callable[[Epoch], None]:
    def tell(epoch: Epoch) -> None:
        say(
            f"epoch {epoch.number}: loss {epoch.loss:.4f}, validation auc"
            f" {epoch.metrics['auc']:.4f}, {epoch.seconds:.1f} s"
        )

    return tell


def _worded(score: Score, *, interval: bool) -> str:
    word = f"{score.value:.4f}"
    return f"{word} [{score.low:.4f}, {score.high:.4f}]" if interval else word


def _write(folder: Path, recipe: Recipe, record: PoolingStudy) -> None:
    """Write the study's folder, whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        (part / RECIPE).write_text(recipe.to_toml(), encoding="utf-8")
        (part / STUDY).write_text(record.to_json(), encoding="utf-8")
        (part / REPORT).write_text(render_study(record), encoding="utf-8")
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
