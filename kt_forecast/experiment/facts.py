"""What a run leaves for its reader, gathered from what it computed."""

import inspect
import json
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from kt_forecast.audit import Report
from kt_forecast.data.cards import card_names, read_card
from kt_forecast.data.interactions import Interactions
from kt_forecast.data.splits import Mask, Role, Split
from kt_forecast.evaluation import PROTOCOLS, Scores, compare
from kt_forecast.metrics import Estimate
from kt_forecast.nn.system import Paper, System
from kt_forecast.report import (
    CalibrationBin,
    Check,
    Citation,
    CurveRow,
    DataFacts,
    Mastery,
    Protocol,
    Score,
    SeenBin,
    SplitFacts,
    SplitPart,
    SystemFacts,
    Verdict,
)
from kt_forecast.schema import (
    ANSWERS_SEEN,
    ANSWERS_SEEN_MOST,
    AUC,
    AUC_HIGH,
    AUC_LOW,
    N_ROWS,
    P_CORRECT,
    P_LEAST,
    QUESTION,
    RESPONSE,
    STUDENT,
)
from kt_forecast.sequences.build import build
from kt_forecast.tracer import Fitted, mastery_over_time
from kt_forecast.tracking import code_version, versions
from kt_forecast.tracking.machine import peak_memory
from kt_forecast.training import Epoch

PEAK = "peak memory of the process"
"""In the environment of a record."""

SHOWN_STEPS = 60
"""The student whose mastery is shown is the one whose history is closest to this long."""

SCHEMES = {
    "students": "By students, drawn by seed: a student has one role.",
    "folds": "By folds of students: published where the data set has them, else drawn by seed.",
    "time": "By time: one moment for all students; what comes at or after it tests.",
    "fraction": "By share: the first part of every student trains, the rest tests.",
}


def score(estimate: Estimate) -> Score:
    """Return a metric with its interval."""
    return Score(value=estimate.value, low=estimate.low, high=estimate.high)


def protocol(
    scores: Scores, beside: Mapping[str, Scores], *, resamples: int, seed: int
) -> Protocol:
    """Return the scores of one protocol, the baselines beside the model and what divides them."""
    gaps = {
        name: compare(scores, other, resamples=resamples, seed=seed)
        for name, other in beside.items()
    }
    return Protocol(
        name=scores.protocol,
        what="; ".join((PROTOCOLS[scores.protocol].description, *scores.notes)),
        n_interactions=scores.n_rows,
        n_students=scores.n_students,
        model=_all(scores.metrics),
        baselines={name: _all(other.metrics) for name, other in beside.items()},
        differences={name: _all(gap) for name, gap in gaps.items()},
    )


def _all(estimates: Mapping[str, Estimate]) -> dict[str, Score]:
    return {name: score(estimate) for name, estimate in estimates.items()}


def calibration(scores: Scores) -> tuple[CalibrationBin, ...]:
    """Return the filled bins of the predicted probability."""
    return tuple(
        CalibrationBin(predicted=row[P_CORRECT], observed=row[RESPONSE], count=row[N_ROWS])
        for row in scores.calibration.sort(P_LEAST).iter_rows(named=True)
    )


def answers_seen(scores: Scores) -> tuple[SeenBin, ...]:
    """Return AUC by answers seen before the step."""
    return tuple(
        SeenBin(
            first=row[ANSWERS_SEEN],
            last=row[ANSWERS_SEEN_MOST],
            count=row[N_ROWS],
            auc=Score(value=row[AUC], low=row[AUC_LOW], high=row[AUC_HIGH]),
        )
        for row in scores.by_answers_seen.iter_rows(named=True)
    )


def curve(fitted: Fitted) -> tuple[CurveRow, ...]:
    """Return one row an epoch."""
    return tuple(curve_row(epoch) for epoch in fitted.epochs)


def curve_row(epoch: Epoch) -> CurveRow:
    """Return an epoch as the page shows it."""
    return CurveRow(
        epoch=epoch.number,
        loss=epoch.loss,
        metrics=dict(epoch.metrics),
        seconds=epoch.seconds,
        learning_rate=epoch.learning_rate,
    )


def objective(fitted: Fitted) -> str:
    """Return what training lowers, where it is more than the log loss of the responses."""
    tracer = fitted.tracer
    weight = tracer.tracing.next_question if tracer is not None else 0.0
    if tracer is None or tracer.questions.identity is None or not weight:
        return ""
    return (
        "Log loss of the responses plus"
        f" {'' if weight == 1.0 else f'{weight:g} times '}that of telling which question comes next"
    )


def data(interactions: Interactions, source: str) -> DataFacts:
    """Return what the table holds, with licence and citation where it has a card."""
    card = read_card(source) if source in card_names() else None
    cited = card is not None and card.citation not in {"none", ""}
    return DataFacts(
        name=interactions.name,
        n_students=len(interactions.students),
        n_questions=len(interactions.questions),
        n_concepts=len(interactions.concepts),
        n_interactions=len(interactions),
        share_correct=float(interactions.frame[RESPONSE].to_numpy().mean()),
        data_hash=interactions.data_hash,
        licence=card.licence if card else "",
        citation=Citation(title=card.citation, url=card.homepage) if card and cited else None,
        notes=interactions.notes,
    )


def split(roles: Split, interactions: Interactions) -> SplitFacts:
    """Return how the rows were divided."""
    student = interactions.frame[STUDENT].to_numpy()
    parts = [(role.name.lower(), roles.scored(role)) for role in Role]
    return SplitFacts(
        scheme=SCHEMES[roles.kind],
        parts=tuple(
            SplitPart(
                name=name, n_students=len(np.unique(student[rows])), n_interactions=int(rows.sum())
            )
            for name, rows in parts
            if rows.any()
        ),
        split_hash=roles.role_hash,
    )


def system(fitted: Fitted) -> SystemFacts:
    """Return what was trained."""
    part = fitted.plan.part
    promises = {}
    if isinstance(part, System):
        promises = {
            "causality": part.promises.causality,
            "streaming": "yes" if part.promises.streaming else "no",
        }
    page = inspect.getdoc(sys.modules[part.build.__module__]) or ""
    return SystemFacts(
        name=fitted.plan.name,
        paper=citation(part.paper),
        promises=promises,
        departures=departures(page),
        n_parameters=fitted.n_parameters,
    )


def citation(paper: Paper | None) -> Citation:
    """Return a paper as the report cites it."""
    if paper is None:
        return Citation(title="")
    return Citation(title=paper.title, authors=paper.authors, year=paper.year, url=paper.url)


def works(fitted: Fitted, beside: Mapping[str, Fitted]) -> tuple[Citation, ...]:
    """Return the papers of the baselines."""
    mine = fitted.plan.part.paper
    papers = {one.plan.name: one.plan.part.paper for one in beside.values()}
    return tuple(
        replace(citation(paper), what=name) for name, paper in papers.items() if paper != mine
    )


def departures(page: str) -> tuple[str, ...]:
    """Return the points under ``Departures from the paper`` of a module's docstring."""
    _, _, rest = page.partition("Departures from the paper:")
    points = re.split(r"\n\s*-\s+", rest.split("\n\n\n")[0])[1:]
    return tuple(" ".join(point.split()).rstrip(";.") + "." for point in points)


def verdict(report: Report) -> Verdict:
    """Return the audit's outcome as the page shows it."""
    scope = dict(report.scope)
    not_covered = str(scope.pop("not_covered", ""))
    told = (*report.reasons, *(f"only if {condition}" for condition in report.conditions))
    return Verdict(
        verdict=report.verdict,
        scope=json.loads(json.dumps(scope, default=str)),
        tried=tuple(
            Check(name=stage.name, outcome=stage.outcome, detail=stage.detail)
            for stage in report.stages
        ),
        findings=tuple(str(finding) for finding in report.findings),
        not_covered=(*told, *(part.strip() for part in not_covered.split(";") if part.strip())),
    )


def mastery(fitted: Fitted, interactions: Interactions, rows: Mask) -> Mastery | None:
    """Return one student's mastery over time.

    Args:
        fitted: the model.
        interactions: the table.
        rows: the rows to choose the student from.
    """
    length = interactions.frame.filter(pl.Series(rows))[STUDENT].value_counts(sort=False)
    length = length.sort(STUDENT)
    counts = length["count"].to_numpy().astype(np.int64)
    student = int(length[STUDENT][int(np.abs(counts - SHOWN_STEPS).argmin())])
    chosen = rows & (interactions.frame[STUDENT].to_numpy() == student)
    sequences = build(interactions, fitted.vocabulary, rows=chosen)
    concepts = sorted({int(c) for c in sequences.concept} - {0})
    if not concepts:
        return None
    place = {index: i for i, index in enumerate(concepts)}
    start, concept = sequences.concept_start.tolist(), sequences.concept.tolist()
    steps = range(sequences.n_steps)
    sets = [{place[c] for c in concept[start[i] : start[i + 1]] if c} for i in steps]
    names = interactions.questions
    asked = [names[int(code)] for code in interactions.frame[QUESTION].filter(pl.Series(chosen))]
    p_correct = mastery_over_time(fitted, sequences, concepts)
    return Mastery(
        student=str(interactions.students[student]),
        concepts=tuple(fitted.vocabulary.concepts[c - 1] for c in concepts),
        p_correct=tuple(tuple(row) for row in p_correct.tolist()),
        practised=tuple(tuple(sorted(found)) for found in sets),
        responses=tuple(sequences.response.tolist()),
        questions=tuple(asked),
    )


def environment(device: str) -> dict[str, str]:
    """Return versions and machine."""
    held = {"device": device, PEAK: f"{peak_memory():.0f} MiB"}
    return versions() | {"platform": platform.platform(terse=True)} | held


def code() -> str:
    """Return the version of the program, with the commit where it runs from a checkout."""
    found = code_version()
    commit = found.get("commit", "")[:12]
    changed = ", changed since" if found.get("dirty") == "true" else ""
    return f"{found['version']} ({commit}{changed})" if commit else found["version"]


def folded(protocols: list[Protocol]) -> Protocol:
    """Return the mean of several folds' scores, with one standard deviation to each side."""
    first = protocols[0]
    return Protocol(
        name=first.name,
        what=first.what,
        n_interactions=_tested([one.n_interactions for one in protocols]),
        n_students=_tested([one.n_students for one in protocols]),
        model=_mean([one.model for one in protocols]),
        baselines={
            name: _mean([one.baselines[name] for one in protocols]) for name in first.baselines
        },
        differences={
            name: _mean([one.differences[name] for one in protocols]) for name in first.differences
        },
        interval=f"mean and one standard deviation over {len(protocols)} folds",
    )


def _tested(numbers: list[int]) -> int:
    """Return how many were tested in all: published test students are the same in every fold."""
    return numbers[0] if len(set(numbers)) == 1 else sum(numbers)


def _mean(scores: list[dict[str, Score]]) -> dict[str, Score]:
    found: dict[str, Any] = {}
    for name in scores[0]:
        values = np.array([one[name].value for one in scores])
        mean, sd = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
        found[name] = Score(value=mean, low=mean - sd, high=mean + sd)
    return found
