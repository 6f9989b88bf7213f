"""Simulated students: item response theory with learning by practice and forgetting by time.

The chance of a correct answer grows with the student's ability and with the logarithm of earlier
practice on the question's concepts, and falls with the question's difficulty and with the
logarithm of the days since that practice. It depends on what was practised, never on earlier
responses, so millions of rows are drawn in array operations and the true chance of each is known.
"""

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from kt_forecast.config import Config
from kt_forecast.schema import (
    CONCEPTS,
    ELAPSED,
    P_CORRECT,
    QUESTION,
    RESPONSE,
    STUDENT,
    TIME,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_DAY_MS = 86_400_000
_LENGTH_SPREAD = 0.6
_FIRST_DAY_MS = 1_700_000_000_000


class Simulation(Config):
    """What to simulate.

    Attributes:
        students: how many.
        mean_steps: mean steps of a student; lengths are skewed, as real ones are.
        questions: how many.
        concepts: how many.
        max_concepts: most concepts of one question.
        topic_steps: mean steps a student stays with one concept.
        bundled: share of steps put together with the step before.
        ability: spread of ability between students, in logits.
        difficulty: spread of difficulty between questions, in logits.
        learning: logits gained for each unit of log practice.
        forgetting: logits lost for each unit of log days since practice.
        seed: of everything.
    """

    students: int = Field(300, ge=1)
    mean_steps: float = Field(50.0, ge=1.0)
    questions: int = Field(200, ge=1)
    concepts: int = Field(24, ge=1)
    max_concepts: int = Field(3, ge=1)
    topic_steps: float = Field(8.0, ge=1.0)
    bundled: float = Field(0.05, ge=0.0, lt=1.0)
    ability: float = Field(1.0, ge=0.0)
    difficulty: float = Field(1.0, ge=0.0)
    learning: float = 0.6
    forgetting: float = 0.3
    seed: int = 0


def simulate(settings: Simulation, *, truth: bool = False) -> pl.DataFrame:
    """Return a raw table of simulated interactions, students after students, oldest first.

    Args:
        settings: what to simulate.
        truth: add the true chance of a correct answer.
    """
    draw = np.random.default_rng(settings.seed)
    lists = _concept_lists(settings, draw)
    skewed = draw.lognormal(-(_LENGTH_SPREAD**2) / 2, _LENGTH_SPREAD, settings.students)
    steps = np.maximum(1, np.round(skewed * settings.mean_steps)).astype(np.int64)
    student = np.repeat(np.arange(settings.students), steps)
    question = _questions(settings, draw, student, lists[:, 0])
    time = _times(settings, draw, student, question)
    practice, days = _practice(student, time, lists[question], settings.concepts)
    ability = draw.normal(0.3, settings.ability, settings.students)
    difficulty = draw.normal(0.0, settings.difficulty, settings.questions)
    logit = ability[student] - difficulty[question]
    logit += settings.learning * np.log1p(practice)
    logit -= settings.forgetting * np.log1p(days)
    chance = 1.0 / (1.0 + np.exp(-logit))
    response = draw.random(len(student)) < chance
    elapsed = np.round(np.exp(3.0 - 0.2 * logit + draw.normal(0.0, 0.5, len(student))), 1)
    frame = pl.DataFrame(
        {
            STUDENT: student.astype(np.uint32),
            QUESTION: question.astype(np.uint32),
            CONCEPTS: _as_lists(lists).gather(question),
            RESPONSE: response.astype(np.uint8),
            TIME: time,
            ELAPSED: elapsed.astype(np.float32),
        }
    )
    return frame.with_columns(pl.Series(P_CORRECT, chance)) if truth else frame


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write a raw table as gzipped CSV; the same table gives the same bytes."""
    joined = pl.col(CONCEPTS).cast(pl.List(pl.String)).list.join("_")
    text = frame.with_columns(joined).write_csv(float_precision=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(gzip.compress(text.encode(), mtime=0))
    part.replace(path)


def _concept_lists(settings: Simulation, draw: np.random.Generator) -> Ints:
    """Return the concepts of each question, questions x max_concepts, -1 fills up."""
    first = np.arange(settings.questions) % settings.concepts
    more = draw.integers(0, settings.concepts, (settings.questions, settings.max_concepts - 1))
    lists = np.concatenate([first[:, None], more], axis=1)
    count = draw.integers(1, settings.max_concepts + 1, settings.questions)
    lists[np.arange(settings.max_concepts) >= count[:, None]] = -1
    for column in range(1, settings.max_concepts):
        repeated = (lists[:, :column] == lists[:, column : column + 1]).any(axis=1)
        lists[repeated, column] = -1
    return lists


def _as_lists(lists: Ints) -> pl.Series:
    return pl.Series(CONCEPTS, [[int(c) for c in row if c >= 0] for row in lists])


def _questions(
    settings: Simulation, draw: np.random.Generator, student: Ints, topic_of: Ints
) -> Ints:
    """Return the question of each step: a student stays with a concept for a while."""
    rows = len(student)
    moves = draw.random(rows) < 1.0 / settings.topic_steps
    moves[0] = True
    moves[1:] |= student[1:] != student[:-1]
    run = np.cumsum(moves) - 1
    topic = draw.integers(0, settings.concepts, int(run[-1]) + 1)[run]
    by_topic = np.argsort(topic_of, kind="stable")
    first = np.searchsorted(topic_of[by_topic], np.arange(settings.concepts + 1))
    size = np.diff(first)
    # With fewer questions than concepts some topics have none; any question serves there.
    chosen = first[topic] + (draw.random(rows) * size[topic]).astype(np.int64)
    anything = draw.integers(0, settings.questions, rows)
    return np.where(size[topic] > 0, by_topic[np.minimum(chosen, len(by_topic) - 1)], anything)


def _times(settings: Simulation, draw: np.random.Generator, student: Ints, question: Ints) -> Ints:
    """Return milliseconds: short gaps within a session, days between sessions."""
    rows = len(student)
    gap = draw.lognormal(np.log(40_000.0), 0.8, rows)
    pause = draw.random(rows) < 0.04
    gap[pause] += draw.exponential(2.0 * _DAY_MS, int(pause.sum()))
    steps = np.maximum(gap.astype(np.int64), 1_000)
    together = draw.random(rows) < settings.bundled
    # A question twice in one bundle would be one event written twice: bundles have two members.
    together[1:] &= (question[1:] != question[:-1]) & ~together[:-1]
    steps[together] = 0
    new = np.ones(rows, dtype=np.bool_)
    new[1:] = student[1:] != student[:-1]
    steps[new] = draw.integers(0, 90 * _DAY_MS, int(new.sum()))
    total = np.cumsum(steps)
    before = np.maximum.accumulate(np.where(new, total - steps, 0))
    return _FIRST_DAY_MS + total - before


def _practice(student: Ints, time: Ints, lists: Ints, n_concepts: int) -> tuple[Floats, Floats]:
    """Return earlier practice and days since it, averaged over each step's concepts."""
    rows = len(lists)
    count = np.zeros(rows)
    days = np.zeros(rows)
    filled = lists >= 0
    row, column = np.nonzero(filled)
    key = student[row] * n_concepts + lists[row, column]
    order = np.argsort(key, kind="stable")
    key, row = key[order], row[order]
    place = np.arange(len(key))
    new = np.ones(len(key), dtype=np.bool_)
    new[1:] = key[1:] != key[:-1]
    nth = place - np.maximum.accumulate(np.where(new, place, 0))
    since = np.zeros(len(key))
    since[1:] = np.where(new[1:], 0, time[row[1:]] - time[row[:-1]]) / _DAY_MS
    share = 1.0 / filled.sum(axis=1)
    count += np.bincount(row, weights=nth * share[row], minlength=rows)
    days += np.bincount(row, weights=since * share[row], minlength=rows)
    return count, days
