"""How good predicted probabilities are, with intervals that treat a student as one draw.

Answers of one student depend on each other, so intervals come from drawing *students* with
replacement (Efron 1979; the cluster form of Field and Welsh 2007). A metric is computed from
sorted rows or sums over each student, prepared once, so that a resample costs one weighted pass.
A metric that is undefined, as AUC is when all responses agree, is nan.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

N_BINS = 10
"""Equal bins of the predicted probability, for calibration."""

CLOSEST = 1e-7
"""How close to 0 and 1 a probability may come in the log loss."""

LEVEL = 0.95
"""Share of resamples inside an interval."""

CELLS_AT_ONCE = 1_000_000
"""Resamples times rows handled at once: bounds the memory of the bootstrap, and fits a cache."""


@dataclass(frozen=True)
class Estimate:
    """A metric with the interval that its resamples fill; all nan where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Answers:
    """Observed and predicted responses, one row a scored step.

    Attributes:
        response: 0 or 1.
        p_correct: predicted probability that the response is 1.
        student: who answered; any codes.
        concept_start: offsets into ``concept``; length rows + 1, or None without concepts.
        concept: concept sets laid end to end.

    Raises:
        ValueError: a response other than 0 and 1, a probability outside [0, 1], or none.
    """

    response: Int[np.ndarray, " rows"]
    p_correct: Float[np.ndarray, " rows"]
    student: Int[np.ndarray, " rows"]
    concept_start: Int[np.ndarray, " rows_and_end"] | None = None
    concept: Int[np.ndarray, " concepts"] | None = None

    def __post_init__(self) -> None:
        if not np.isin(self.response, (0, 1)).all():
            raise ValueError("responses must be 0 or 1")
        bad = np.flatnonzero(~((self.p_correct >= 0) & (self.p_correct <= 1)))
        if len(bad):
            raise ValueError(
                f"p_correct must lie in [0, 1], got {self.p_correct[bad[0]]} at row {bad[0]}"
            )

    @cached_property
    def owner(self) -> Int[np.ndarray, " rows"]:
        """Return the place of each row's student among the distinct students."""
        return np.unique(self.student, return_inverse=True)[1]

    @cached_property
    def n_students(self) -> int:
        """Return the number of distinct students."""
        return int(self.owner.max()) + 1 if len(self.owner) else 0

    @cached_property
    def pooled(self) -> "_Ranking":
        """Return all rows as one group, ranked."""
        rows = np.arange(len(self.response))
        return _Ranking.of(self, rows, np.zeros_like(rows))

    @cached_property
    def within_students(self) -> tuple[Float[np.ndarray, " students"], ...]:
        """Return the won pairs and the pairs of each student."""
        ranking = _Ranking.of(self, np.arange(len(self.response)), self.owner)
        wins, pairs = ranking.wins_and_pairs(np.ones((1, self.n_students)))
        return wins[0], pairs[0]

    @cached_property
    def within_concepts(self) -> "_Ranking":
        """Return each row once in the group of each of its concepts, ranked."""
        if self.concept_start is None or self.concept is None:
            return _Ranking.of(self, *np.zeros((2, 0), dtype=np.int64))
        rows = np.repeat(np.arange(len(self.response)), np.diff(self.concept_start))
        return _Ranking.of(self, rows, self.concept)

    @cached_property
    def drawn(self) -> dict[tuple[str, int, int], Float[np.ndarray, " resamples"]]:
        """Return the metrics of the resamples so far, by name, how many, and seed."""
        return {}

    def total(self, per_row: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " students"]:
        """Return the sum over each student's rows."""
        total = np.bincount(self.owner, weights=per_row, minlength=self.n_students)
        return total.astype(np.float64)


@dataclass(frozen=True)
class _Ranking:
    """Rows sorted by group and then by probability; ties of one group share a block.

    Attributes:
        owner: student of each sorted row.
        correct: its response.
        block: first row of each run of equal probabilities in one group.
        group: first block of each group.
    """

    owner: Int[np.ndarray, " sorted"]
    correct: Float[np.ndarray, " sorted"]
    block: Int[np.ndarray, " blocks"]
    group: Int[np.ndarray, " groups"]

    @classmethod
    def of(
        cls, answers: Answers, rows: Int[np.ndarray, " sorted"], group: Int[np.ndarray, " sorted"]
    ) -> "_Ranking":
        p_correct = answers.p_correct[rows]
        order = np.lexsort((p_correct, group))
        rows, group, p_correct = rows[order], group[order], p_correct[order]
        new_group = np.diff(group, prepend=group[:1] - 1) != 0
        new_block = new_group | (np.diff(p_correct, prepend=p_correct[:1]) != 0)
        return cls(
            owner=answers.owner[rows],
            correct=answers.response[rows].astype(np.float64),
            block=np.flatnonzero(new_block),
            group=np.flatnonzero(new_group[new_block]),
        )

    def wins_and_pairs(
        self, times: Float[np.ndarray, "resamples students"]
    ) -> tuple[Float[np.ndarray, "resamples groups"], ...]:
        """Return, of each group, the pairs won (half for a tie) and the pairs of unlike answers."""
        weight = times[:, self.owner]
        if not len(self.owner):
            return weight, weight
        correct = weight * self.correct
        wrong = self._blocks(weight - correct)
        correct = self._blocks(correct)
        passed = np.cumsum(wrong, axis=1)
        before_group = (passed - wrong)[:, self.group]
        passed -= wrong / 2
        n_correct = np.add.reduceat(correct, self.group, axis=1)
        n_wrong = np.add.reduceat(wrong, self.group, axis=1)
        wins = np.add.reduceat(correct * passed, self.group, axis=1) - n_correct * before_group
        return wins, n_correct * n_wrong

    def _blocks(
        self, per_row: Float[np.ndarray, "resamples sorted"]
    ) -> Float[np.ndarray, "resamples blocks"]:
        if len(self.block) == len(self.owner):
            return per_row
        return np.add.reduceat(per_row, self.block, axis=1)


def auc(response: Int[np.ndarray, " rows"], p_correct: Float[np.ndarray, " rows"]) -> float:
    """Return the area under the ROC curve over all pairs of rows.

    Formula: share of pairs (correct answer, wrong answer) in which the correct one was given the
    higher probability; a tie counts half. Range [0, 1], chance is one half, higher is better; nan
    when all responses agree.

    Misleads: nearly all pairs join two different students, so knowing who is strong and which
    question is easy earns most of it; a model that traces nothing can look good.
    """
    return _value(_auc, Answers(response, p_correct, np.zeros(len(response), dtype=np.int64)))


def auc_within_student(
    response: Int[np.ndarray, " rows"],
    p_correct: Float[np.ndarray, " rows"],
    student: Int[np.ndarray, " rows"],
) -> float:
    """Return the area under the ROC curve over pairs of answers of one student.

    Formula: won pairs of all students over pairs of all students, a pair being a correct and a
    wrong answer of the same student; ties count half. Students weigh by their pairs. Range [0, 1],
    chance is one half, higher is better; nan when no student has both responses.

    Misleads: a student's pairs grow with the square of the answers, so a few long histories
    decide; and knowing which questions are easy still earns much of it.
    """
    return _value(_auc_within_student, Answers(response, p_correct, student))


def auc_within_concept(
    response: Int[np.ndarray, " rows"],
    p_correct: Float[np.ndarray, " rows"],
    concept_start: Int[np.ndarray, " rows_and_end"],
    concept: Int[np.ndarray, " concepts"],
) -> float:
    """Return the area under the ROC curve over pairs of answers on one concept.

    Formula: won pairs of all concepts over pairs of all concepts; ties count half; a row with
    several concepts stands in each. Range [0, 1], chance is one half, higher is better; nan when
    no concept has both responses.

    Misleads: the most practised concepts decide, and a concept whose questions differ in
    difficulty rewards knowing the question rather than tracing the student.
    """
    student = np.zeros(len(response), dtype=np.int64)
    return _value(
        _auc_within_concept, Answers(response, p_correct, student, concept_start, concept)
    )


def accuracy(response: Int[np.ndarray, " rows"], p_correct: Float[np.ndarray, " rows"]) -> float:
    """Return the share of rows on the right side of one half.

    Formula: mean of [(p >= 0.5) = response]. Range [0, 1], higher is better.

    Misleads: where most answers are correct, saying "correct" always scores that share.
    """
    return _value(_accuracy, _alone(response, p_correct))


def nll(response: Int[np.ndarray, " rows"], p_correct: Float[np.ndarray, " rows"]) -> float:
    """Return the mean log loss in nats.

    Formula: mean of -log(probability given to what happened), probabilities kept a hair from 0
    and 1. Range [0, infinity), lower is better; log 2 is a coin's.

    Misleads: one certain and wrong prediction can outweigh thousands of good ones.
    """
    return _value(_nll, _alone(response, p_correct))


def brier(response: Int[np.ndarray, " rows"], p_correct: Float[np.ndarray, " rows"]) -> float:
    """Return the Brier score.

    Formula: mean of (p - response) squared. Range [0, 1], lower is better; a coin's is 1/4.

    Misleads: across data sets, since its size is set by the share of correct answers: always
    predicting a share of nine in ten scores better than a good model of an even set.
    """
    return _value(_brier, _alone(response, p_correct))


def rmse(response: Int[np.ndarray, " rows"], p_correct: Float[np.ndarray, " rows"]) -> float:
    """Return the root of the mean squared error.

    Formula: square root of the Brier score. Range [0, 1], lower is better; a coin's is 1/2.

    Misleads: as the Brier score does; and its square root makes large gains look small.
    """
    return _value(_rmse, _alone(response, p_correct))


def ece(response: Int[np.ndarray, " rows"], p_correct: Float[np.ndarray, " rows"]) -> float:
    """Return the expected calibration error over equal bins of the probability.

    Formula: sum over bins of (share of rows) x |mean p - mean response|. Range [0, 1], lower is
    better. Naeini, Cooper and Hauskrecht 2015.

    Misleads: always predicting the overall share of correct answers has none; and with few rows
    sampling noise alone makes it positive.
    """
    return _value(_ece, _alone(response, p_correct))


def score(
    answers: Answers,
    *,
    names: Iterable[str] | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return metrics with their intervals.

    Args:
        answers: the scored rows.
        names: which of `METRICS`; all by default.
        resamples: how often the students are drawn; 0 for no intervals.
        seed: of the draws.

    Returns:
        Estimates by metric name; an interval is over the resamples in which the metric exists.
    """
    wanted = tuple(names or METRICS)
    drawn = samples(answers, names=wanted, resamples=resamples, seed=seed)
    return {name: estimate(_value(METRICS[name], answers), drawn[name]) for name in wanted}


def samples(
    answers: Answers, *, names: Iterable[str] | None = None, resamples: int = 500, seed: int = 0
) -> dict[str, Float[np.ndarray, " resamples"]]:
    """Return metrics of each resample, computed once for the same rows.

    The same seed draws the same students of the same rows, and the first of many resamples are
    those of few: what two models' samples differ by is the sample of their difference.

    Args:
        answers: the scored rows.
        names: which of `METRICS`; all by default.
        resamples: how often the students are drawn.
        seed: of the draws.
    """
    wanted = tuple(names or METRICS)
    missing = {n: METRICS[n] for n in wanted if (n, resamples, seed) not in answers.drawn}
    blocks = [
        [metric(answers, times) for metric in missing.values()]
        for times in (_draws(answers, resamples, seed) if missing else ())
    ]
    for i, name in enumerate(missing):
        parts = (np.zeros(0), *(block[i] for block in blocks))
        answers.drawn[name, resamples, seed] = np.concatenate(parts)
    return {name: answers.drawn[name, resamples, seed] for name in wanted}


def compare(
    answers: Answers,
    other: Answers | Float[np.ndarray, " rows"],
    *,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return every metric of ``answers`` less that of other predictions of the same rows.

    Both are computed on the same drawn students, so that what makes a student easy or hard for
    both models cancels. An interval without zero is a difference beyond the luck of the draw.

    Args:
        answers: rows with the first model's predictions.
        other: the same rows, in the same order, with the second model's predictions; or these
            alone.
        resamples: how often the students are drawn; 0 for no intervals.
        seed: of the draws.
    """
    if not isinstance(other, Answers):
        other = replace(answers, p_correct=other)
    mine, theirs = (samples(one, resamples=resamples, seed=seed) for one in (answers, other))
    return {
        name: estimate(_value(metric, answers) - _value(metric, other), mine[name] - theirs[name])
        for name, metric in METRICS.items()
    }


def _alone(response: Int[np.ndarray, " rows"], p_correct: Float[np.ndarray, " rows"]) -> Answers:
    return Answers(response, p_correct, np.zeros(len(response), dtype=np.int64))


def _draws(
    answers: Answers, resamples: int, seed: int
) -> Iterator[Float[np.ndarray, "resamples students"]]:
    """Yield how many times each resample drew each student, some resamples at a time."""
    students = answers.n_students
    random = np.random.default_rng(seed)
    block = max(1, CELLS_AT_ONCE // max(len(answers.response), students, 1))
    for first in range(0, resamples if students else 0, block):
        n = min(block, resamples - first)
        drawn = random.integers(students, size=(n, students)) + students * np.arange(n)[:, None]
        times = np.bincount(drawn.ravel(), minlength=n * students)
        yield times.reshape(n, students).astype(np.float64)


def estimate(value: float, sample: Float[np.ndarray, " resamples"]) -> Estimate:
    """Return a value with the interval of the resamples in which it is defined."""
    tail = (1 - LEVEL) / 2
    sample = sample[~np.isnan(sample)]
    low, high = np.nan, np.nan
    if not np.isnan(value) and len(sample):
        low, high = np.quantile(sample, (tail, 1 - tail))
    return Estimate(value, float(low), float(high))


Kernel = Callable[
    [Answers, Float[np.ndarray, "resamples students"]], Float[np.ndarray, " resamples"]
]


def _value(metric: Kernel, answers: Answers) -> float:
    return float(metric(answers, np.ones((1, answers.n_students)))[0])


def _ratio(
    part: Float[np.ndarray, " resamples"], whole: Float[np.ndarray, " resamples"]
) -> Float[np.ndarray, " resamples"]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _mean(
    answers: Answers,
    times: Float[np.ndarray, "resamples students"],
    per_row: Float[np.ndarray, " rows"],
) -> Float[np.ndarray, " resamples"]:
    n_rows = answers.total(np.ones(len(per_row)))
    return _ratio(times @ answers.total(per_row), times @ n_rows)


def _auc(
    answers: Answers, times: Float[np.ndarray, "resamples students"]
) -> Float[np.ndarray, " resamples"]:
    wins, pairs = answers.pooled.wins_and_pairs(times)
    return _ratio(wins.sum(1), pairs.sum(1))


def _auc_within_student(
    answers: Answers, times: Float[np.ndarray, "resamples students"]
) -> Float[np.ndarray, " resamples"]:
    wins, pairs = answers.within_students
    return _ratio(times @ wins, times @ pairs)


def _auc_within_concept(
    answers: Answers, times: Float[np.ndarray, "resamples students"]
) -> Float[np.ndarray, " resamples"]:
    wins, pairs = answers.within_concepts.wins_and_pairs(times)
    return _ratio(wins.sum(1), pairs.sum(1))


def _accuracy(
    answers: Answers, times: Float[np.ndarray, "resamples students"]
) -> Float[np.ndarray, " resamples"]:
    hit = (answers.p_correct >= 0.5) == (answers.response == 1)
    return _mean(answers, times, hit.astype(np.float64))


def _nll(
    answers: Answers, times: Float[np.ndarray, "resamples students"]
) -> Float[np.ndarray, " resamples"]:
    happened = np.where(answers.response == 1, answers.p_correct, 1 - answers.p_correct)
    return _mean(answers, times, -np.log(happened.clip(CLOSEST, 1 - CLOSEST)))


def _brier(
    answers: Answers, times: Float[np.ndarray, "resamples students"]
) -> Float[np.ndarray, " resamples"]:
    return _mean(answers, times, (answers.p_correct - answers.response) ** 2)


def _rmse(
    answers: Answers, times: Float[np.ndarray, "resamples students"]
) -> Float[np.ndarray, " resamples"]:
    return np.sqrt(_brier(answers, times))


def bins(p_correct: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Return the calibration bin of each probability; the last bin holds 1 itself."""
    return np.minimum((p_correct * N_BINS).astype(np.int64), N_BINS - 1)


def _ece(
    answers: Answers, times: Float[np.ndarray, "resamples students"]
) -> Float[np.ndarray, " resamples"]:
    cell = answers.owner * N_BINS + bins(answers.p_correct)
    gap = np.bincount(
        cell, answers.p_correct - answers.response, minlength=answers.n_students * N_BINS
    )
    off = np.abs(times @ gap.reshape(-1, N_BINS)).sum(1)
    return _ratio(off, times @ answers.total(np.ones(len(answers.response))))


METRICS: dict[str, Kernel] = {
    "auc": _auc,
    "auc_within_student": _auc_within_student,
    "auc_within_concept": _auc_within_concept,
    "accuracy": _accuracy,
    "nll": _nll,
    "brier": _brier,
    "rmse": _rmse,
    "ece": _ece,
}
"""What `score` computes, by name: from rows and how often each student was drawn."""

HIGHER_IS_BETTER = frozenset({"auc", "auc_within_student", "auc_within_concept", "accuracy"})
