"""Held-out students to scores: every interaction once, under a named protocol."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from kt_forecast import metrics
from kt_forecast.errors import InputError
from kt_forecast.metrics import Answers, Estimate
from kt_forecast.nn.system import unknown
from kt_forecast.schema import (
    ANSWERS_SEEN,
    ANSWERS_SEEN_MOST,
    AUC,
    AUC_HIGH,
    AUC_LOW,
    N_ROWS,
    P_CORRECT,
    P_LEAST,
    RESPONSE,
    ROW,
    STUDENT,
)
from kt_forecast.sequences.collect import require_once
from kt_forecast.sequences.counts import looked_back
from kt_forecast.sequences.interactions import StudentSequences

ANSWERS_SEEN_EDGES = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200)
"""Least answers seen of each line of the table by answers seen."""


@runtime_checkable
class Predictor(Protocol):
    """Anything that predicts the steps of students' sequences."""

    def predict(
        self,
        sequences: StudentSequences,
        *,
        history: int | None = None,
        unit: Literal["steps", "rows"] = "steps",
    ) -> npt.NDArray[np.float64]:
        """Return p_correct of each step from what it may look back on; nan where not scored."""
        ...


@runtime_checkable
class StreamingPredictor(Protocol):
    """A predictor that also goes on from a state, which it keeps instead of the history."""

    def stream(self, sequences: StudentSequences) -> npt.NDArray[np.float64]:
        """Return what `Predictor.predict` returns for whole histories, made by carrying a state."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What an evaluation shows a predictor and which steps it scores.

    Attributes:
        description: one line for a report.
        history: the most a prediction may look back on, its own step included; None for all.
        unit: what ``history`` counts: steps, or concept rows.
        first_step: whether the first step of a student is scored, of which nothing is known.
        answers: score only steps before which fewer answers were seen; None for all steps.
        streamed: predict in segments, through the predictor's state.
    """

    description: str
    history: int | None = None
    unit: Literal["steps", "rows"] = "steps"
    first_step: bool = True
    answers: int | None = None
    streamed: bool = False


PROTOCOLS: dict[str, Rules] = {
    "full": Rules(description="every interaction, predicted from the whole history before it"),
    "pykt": Rules(
        description="every interaction but a student's first, predicted within a sliding window of"
        " 200 concept rows, as pyKT's question-level windows",
        history=200,
        unit="rows",
        first_step=False,
    ),
    "stream": Rules(
        description="every interaction, histories read in segments through the streaming state",
        streamed=True,
    ),
    "cold_start": Rules(
        description="the first answers of each student, while fewer than ten are known", answers=10
    ),
}


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
        protocol: name of the protocol.
        rules: what it showed and scored.
        metrics: every metric with its interval over students.
        n_rows: scored interactions.
        n_students: students with a scored interaction.
        predictions: row of the table, student, answers seen before, response and p_correct of
            each scored step.
        by_answers_seen: AUC with its interval by answers seen before.
        calibration: mean prediction and mean response by bin of the prediction.
        notes: which metrics are not defined here, and why, one sentence each.
        answers: the scored rows, for comparisons.
    """

    protocol: str
    rules: Rules
    metrics: dict[str, Estimate]
    n_rows: int
    n_students: int
    predictions: pl.DataFrame
    by_answers_seen: pl.DataFrame
    calibration: pl.DataFrame
    notes: tuple[str, ...]
    answers: Answers


def evaluate(
    predictor: Predictor,
    sequences: StudentSequences,
    protocol: str | Rules = "full",
    *,
    resamples: int = 500,
    seed: int = 0,
) -> Scores:
    """Predict held-out students and score every interaction exactly once.

    A step with several concepts is one prediction. It stands for what pyKT calls late fusion, the
    mean of one prediction for each concept row made from the state before the question, so scores
    under ``pykt`` compare with pyKT's question-level figures and never with its row-level ones.

    Args:
        predictor: fitted on other students, or on earlier interactions.
        sequences: held-out students; steps that are not ``scored`` there are history only.
        protocol: name of one of `PROTOCOLS`, or rules of one's own.
        resamples: how often the students are drawn for the intervals; 0 for none.
        seed: of the draws.

    Raises:
        InputError: no protocol has that name, the predictor cannot stream, or nothing is scored.
        RuntimeError: an interaction was predicted twice or never.
    """
    name, rules = _rules(protocol)
    begin, stop = looked_back(sequences)
    seen = stop - begin
    scored = sequences.scored.numpy().copy()
    if not rules.first_step:
        scored &= np.arange(sequences.n_steps) > begin
    if rules.answers is not None:
        scored &= seen < rules.answers
    if not scored.any():
        raise InputError(
            f"protocol {name!r} scores none of the {sequences.n_steps} interactions; accepted are"
            " students with an interaction that counts under it"
        )
    asked = replace(sequences, scored=torch.from_numpy(scored))
    p_correct = _predict(predictor, asked, rules)
    places = np.flatnonzero(scored)
    _require_once(asked, p_correct, places)
    answers = _answers(asked, p_correct, places)
    estimates = metrics.score(answers, resamples=resamples, seed=seed)
    return Scores(
        protocol=name,
        rules=rules,
        metrics=estimates,
        n_rows=len(places),
        n_students=answers.n_students,
        predictions=pl.DataFrame(
            {
                ROW: sequences.row.numpy()[places],
                STUDENT: answers.student,
                ANSWERS_SEEN: seen[places],
                RESPONSE: answers.response,
                P_CORRECT: answers.p_correct,
            }
        ),
        by_answers_seen=by_answers_seen(answers, seen[places], resamples=resamples, seed=seed),
        calibration=calibration(answers),
        notes=_undefined(answers, estimates),
        answers=answers,
    )


def compare(
    first: Scores, second: Scores, *, resamples: int = 500, seed: int = 0
) -> dict[str, Estimate]:
    """Return the metrics of ``first`` less those of ``second``, students drawn for both at once.

    Raises:
        InputError: they scored different interactions.
    """
    if not first.predictions[ROW].equals(second.predictions[ROW]):
        raise InputError(
            f"the scores under {first.protocol!r} and {second.protocol!r} are of different"
            " interactions; accepted are two evaluations of the same ones"
        )
    other = second.answers
    if not np.array_equal(other.response, first.answers.response):
        other = replace(first.answers, p_correct=other.p_correct)
    return metrics.compare(first.answers, other, resamples=resamples, seed=seed)


def coin_flip(sequences: StudentSequences, seed: int) -> StudentSequences:
    """Return the sequences with every response replaced by the throw of a fair coin.

    Nothing can be learned from them: a pipeline that is trained and evaluated on such sequences
    and finds an AUC whose interval misses one half reads the answer somewhere.
    """
    thrown = np.random.default_rng(seed).integers(2, size=sequences.n_steps)
    response = torch.from_numpy(thrown).to(sequences.response.dtype)
    return replace(sequences, response=response)


def by_answers_seen(
    answers: Answers, seen: npt.NDArray[np.int64], *, resamples: int = 500, seed: int = 0
) -> pl.DataFrame:
    """Return AUC with its interval, and the mean response, by answers seen before the step."""
    edges = np.array(ANSWERS_SEEN_EDGES)
    part = np.searchsorted(edges, seen, side="right") - 1
    lines = []
    for i in np.unique(part):
        chosen = np.flatnonzero(part == i)
        some = Answers(answers.response[chosen], answers.p_correct[chosen], answers.student[chosen])
        estimate = metrics.score(some, names=("auc",), resamples=resamples, seed=seed)["auc"]
        lines.append(
            {
                ANSWERS_SEEN: int(edges[i]),
                ANSWERS_SEEN_MOST: int(edges[i + 1]) - 1 if i + 1 < len(edges) else None,
                N_ROWS: len(chosen),
                AUC: estimate.value,
                AUC_LOW: estimate.low,
                AUC_HIGH: estimate.high,
                RESPONSE: float(some.response.mean()),
            }
        )
    return pl.DataFrame(lines, schema_overrides={ANSWERS_SEEN_MOST: pl.Int64})


def calibration(answers: Answers) -> pl.DataFrame:
    """Return the mean prediction and the mean response of each filled bin of the prediction."""
    place = metrics.bins(answers.p_correct)
    n_rows = np.bincount(place, minlength=metrics.N_BINS)
    filled = np.flatnonzero(n_rows)
    means = {
        column: (np.bincount(place, weights=values, minlength=metrics.N_BINS) / n_rows.clip(1))
        for column, values in ((P_CORRECT, answers.p_correct), (RESPONSE, answers.response))
    }
    return pl.DataFrame(
        {P_LEAST: filled / metrics.N_BINS, N_ROWS: n_rows[filled]}
        | {column: values[filled] for column, values in means.items()}
    )


def _rules(protocol: str | Rules) -> tuple[str, Rules]:
    if isinstance(protocol, Rules):
        return protocol.description, protocol
    if protocol not in PROTOCOLS:
        raise InputError(unknown(protocol, list(PROTOCOLS), "protocol"))
    return protocol, PROTOCOLS[protocol]


def _predict(
    predictor: Predictor, sequences: StudentSequences, rules: Rules
) -> npt.NDArray[np.float64]:
    if not rules.streamed:
        return predictor.predict(sequences, history=rules.history, unit=rules.unit)
    if not isinstance(predictor, StreamingPredictor):
        raise InputError(
            f"{type(predictor).__name__} keeps no state to stream through; accepted are protocols"
            f" {', '.join(name for name, other in PROTOCOLS.items() if not other.streamed)}"
        )
    return predictor.stream(sequences)


def _require_once(
    sequences: StudentSequences,
    p_correct: npt.NDArray[np.float64],
    places: npt.NDArray[np.int64],
) -> None:
    """Check that each interaction of the table was predicted once.

    Raises:
        RuntimeError: one was predicted twice or never, or has no place in the sequences.
    """
    if p_correct.shape != (sequences.n_steps,):
        raise RuntimeError(f"{p_correct.shape} predictions of {sequences.n_steps} steps")
    require_once(sequences.scored.numpy(), (~np.isnan(p_correct)).astype(np.int64))
    row = np.sort(sequences.row.numpy()[places])
    again = row[1:][row[1:] == row[:-1]]
    if len(again):
        raise RuntimeError(f"row {again[0]} of the table is scored more than once")


def _answers(
    sequences: StudentSequences,
    p_correct: npt.NDArray[np.float64],
    places: npt.NDArray[np.int64],
) -> Answers:
    """Return the scored steps with their concept sets."""
    start = sequences.start.numpy()
    student = np.repeat(sequences.student.numpy(), np.diff(start))
    offset = sequences.concept_start.numpy()
    size = np.diff(offset)
    concept_start = np.concatenate([[0], np.cumsum(size[places])])
    kept = np.repeat(sequences.scored.numpy(), size)
    return Answers(
        response=sequences.response.numpy()[places].astype(np.int64),
        p_correct=p_correct[places],
        student=student[places].astype(np.int64),
        concept_start=concept_start,
        concept=sequences.concept.numpy()[kept].astype(np.int64),
    )


def _undefined(answers: Answers, estimates: dict[str, Estimate]) -> tuple[str, ...]:
    reasons = {
        "auc": f"all {len(answers.response)} responses are {answers.response[0]}",
        "auc_within_student": "no student has both responses",
        "auc_within_concept": "no concept has both responses",
    }
    return tuple(
        f"{name} is not defined: {reason}"
        for name, reason in reasons.items()
        if np.isnan(estimates[name].value)
    )
