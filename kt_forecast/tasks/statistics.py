"""What the training students tell of each question: how hard it is, and what it stands beside.

Everything here is fitted on training rows. Training students are dealt into groups, and for each
step of a group the group's own answers to the question are taken out again, so that a model in
training sees what it will see for a new student. (Taking out a single student's answers would
betray them: the trace they leave in the rate of a question that thousands answered is small, but
its direction is the answer, and a network learns to read it.)
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy.special import expit, logit
from torch import Tensor, nn

from kt_forecast.sequences.batching import Batches
from kt_forecast.sequences.interactions import Batch, StudentSequences, Vocabulary

Floats = npt.NDArray[np.float64]

QUESTION_SHRINKAGE = 4.0
"""Answers' worth of the concepts' rate that is mixed into a question's rate."""

CONCEPT_SHRINKAGE = 20.0
"""Answers' worth of the overall rate that is mixed into a concept's rate."""

STUDENT_SHRINKAGE = 3.0
"""Answers' worth of the overall rate that is mixed into a student's rate."""

RIGHT, ANSWERS, SURPLUS = 0, 1, 2
"""Columns of a question's statistics: right answers, all answers, and right answers beyond those
expected from the student's rate elsewhere and the rate of the concepts."""


class QuestionRates(nn.Module):
    """How often questions and concepts were answered right in training.

    Unfitted, every rate is one half. The numbers are buffers: saved with the weights, not trained.
    """

    question: Tensor
    concept: Tensor
    overall: Tensor
    centre: Tensor
    spread: Tensor

    FEATURES = 4

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.register_buffer("question", torch.zeros(len(vocabulary.questions) + 1, 3))
        self.register_buffer("concept", torch.zeros(len(vocabulary.concepts) + 1, 2))
        self.register_buffer("overall", torch.tensor(0.5))
        self.register_buffer("centre", torch.zeros(self.FEATURES))
        self.register_buffer("spread", torch.ones(self.FEATURES))

    def fit(self, train: StudentSequences) -> StudentSequences:
        """Count the training answers.

        Args:
            train: the training students; steps that are not scored count as well, since they are
                their history.

        Returns:
            The same sequences, with each group's share in the statistics of its questions.
        """
        found, own = _counted(train, len(self.question), len(self.concept))
        for name, value in found.items():
            getattr(self, name).copy_(torch.from_numpy(np.asarray(value)))
        fitted = replace(train, own=torch.from_numpy(own.astype(np.float32)))
        self._standardise(fitted)
        return fitted

    def _standardise(self, train: StudentSequences) -> None:
        """Measure mean and spread of the features over the training steps."""
        number, (total, squares) = 0, torch.zeros(2, self.FEATURES, dtype=torch.float64)
        for batch in Batches(train, shuffle=False):
            raw, _ = self._raw(batch)
            seen = raw[batch.real].double()
            number += len(seen)
            total += seen.sum(0)
            squares += seen.square().sum(0)
        mean = total / number
        self.centre.copy_(mean)
        self.spread.copy_((squares / number - mean.square()).clamp_min(0.0).sqrt() + LEAST)

    def forward(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch time feature"], Float[Tensor, "batch time"]]:
        """Return what is known of each step's question, and its expected rate of right answers.

        The first is standardised: mean 0 and spread 1 over the training steps.
        """
        raw, expected = self._raw(batch)
        return ((raw - self.centre) / self.spread).clamp(-MOST, MOST), expected

    def _raw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        present = batch.concepts > 0
        right, answers = self.concept[batch.concepts].unbind(-1)
        rate = (right + CONCEPT_SHRINKAGE * self.overall) / (answers + CONCEPT_SHRINKAGE)
        concept = torch.where(present, rate, 0.0).sum(-1) / present.sum(-1).clamp_min(1)
        concept = torch.where(present.any(-1), concept, self.overall)
        known = self.question[batch.question] * (batch.question > 0)[..., None]
        if batch.own is not None:
            known = known - batch.own
        weight = known[..., ANSWERS] + QUESTION_SHRINKAGE
        expected = (known[..., RIGHT] + QUESTION_SHRINKAGE * concept) / weight
        features = [
            expected.logit(LEAST),
            known[..., ANSWERS].clamp_min(0.0).log1p(),
            concept.logit(LEAST),
            known[..., SURPLUS] / weight,
        ]
        return torch.stack(features, -1), expected


LEAST = 1e-3
"""Probabilities are kept this far from 0 and 1 before their logit is taken."""

MOST = 5.0
"""Features are kept this near to 0."""

GROUPS = 5
"""Groups of training students, each of which sees the statistics of the others."""


def _counted(
    train: StudentSequences, questions: int, concepts: int
) -> tuple[dict[str, Floats | float], Floats]:
    """Return the statistics, and each step's own group's share in those of its question."""
    response = train.response.numpy().astype(np.float64)
    question = train.question.numpy().astype(np.int64)
    steps = np.diff(train.start.numpy())
    student = np.repeat(np.arange(len(steps)), steps)
    overall = float(response.mean())
    per_step = np.diff(train.concept_start.numpy())
    of_step = np.repeat(np.arange(len(response)), per_step)
    concept = train.concept.numpy().astype(np.int64)
    right = np.bincount(concept, response[of_step], concepts)
    answers = np.bincount(concept, minlength=concepts).astype(np.float64)
    rate = (right + CONCEPT_SHRINKAGE * overall) / (answers + CONCEPT_SHRINKAGE)
    pooled = np.bincount(of_step, rate[concept], len(response)) / np.maximum(per_step, 1)
    pooled = np.where(per_step > 0, pooled, overall)
    elsewhere = _rate_elsewhere(student, response, overall)
    expected = expit(_logit(elsewhere) + _logit(pooled) - _logit(overall))
    columns = np.stack([response, np.ones_like(response), response - expected], 1)
    columns[question == 0] = 0.0
    sums = [np.bincount(question, c, questions) for c in columns.T]
    table = np.stack(sums, 1).astype(np.float64)
    group = np.random.default_rng(0).permutation(len(steps))[student] % GROUPS
    pair = group * questions + question
    own = np.stack([np.bincount(pair, c)[pair] for c in columns.T], 1)
    concepts_table = np.stack([right, answers], 1).astype(np.float64)
    found: dict[str, Floats | float] = {"question": table, "concept": concepts_table}
    return found | {"overall": overall}, own.astype(np.float64)


def _logit(p: Floats | float) -> Any:  # noqa: ANN401
    return logit(np.clip(p, LEAST, 1.0 - LEAST))


def _rate_elsewhere(student: npt.NDArray[np.int64], response: Floats, overall: float) -> Floats:
    """Return each step's student's rate of right answers in all other steps."""
    right, steps = np.bincount(student, response)[student], np.bincount(student)[student]
    return (right - response + STUDENT_SHRINKAGE * overall) / (steps - 1 + STUDENT_SHRINKAGE)


class QuestionNeighbours(nn.Module):
    """Where a question stands among others: factors of which questions are put close together.

    The positive pointwise mutual information of questions that training students met within a few
    steps of each other, weighted by one over their distance, is factorised; rows are scaled to
    length one. Levy and Goldberg 2014, Neural Word Embedding as Implicit Matrix Factorization.
    """

    table: Tensor

    def __init__(self, size: int, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(len(vocabulary.questions) + 1, size))

    def fit(self, train: StudentSequences) -> None:
        """Factorise the training students' paths through the questions."""
        from sklearn.utils.extmath import randomized_svd

        information = _mutual_information(train, len(self.table))
        size = min(self.table.shape[1], min(information.shape) - 1)
        if size < 1 or information.nnz == 0:
            return
        left, strength, _ = randomized_svd(information, size, n_iter=4, random_state=0)
        factors = left * np.sqrt(strength)
        length = np.linalg.norm(factors, axis=1, keepdims=True)
        factors = factors / np.maximum(length, np.finfo(np.float32).tiny)
        factors[0] = 0.0
        self.table.zero_()
        self.table[:, :size] = torch.from_numpy(factors.astype(np.float32))

    def forward(self, batch: Batch) -> Float[Tensor, "batch time factor"]:
        """Return the factors of each step's question; zero where it is unknown."""
        return self.table[batch.question]


REACH = 6
"""Steps within which two questions count as close."""

SMOOTHING = 0.75
"""Power of the neighbour's frequency, which keeps rare pairs from dominating."""


def _mutual_information(train: StudentSequences, questions: int):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Return the positive pointwise mutual information of close questions, sparse."""
    from scipy import sparse

    question = train.question.numpy().astype(np.int64)
    student = np.repeat(np.arange(train.n_students), np.diff(train.start.numpy()))
    total = sparse.csr_array((questions, questions), dtype=np.float64)
    for apart in range(1, REACH + 1):
        a, b = question[:-apart], question[apart:]
        close = (student[:-apart] == student[apart:]) & (a != b) & (a > 0) & (b > 0)
        a, b = a[close], b[close]
        weight = np.full(2 * len(a), 1.0 / apart)
        pairs = (np.concatenate([a, b]), np.concatenate([b, a]))
        total = total + sparse.csr_array((weight, pairs), shape=total.shape)
    found = total.tocoo()
    often = np.asarray(total.sum(1)).ravel()
    smoothed = often**SMOOTHING
    chance = often[found.row] * smoothed[found.col] / max(smoothed.sum(), 1.0)
    information = np.maximum(np.log(found.data / np.maximum(chance, 1e-12)), 0.0)
    result = sparse.csr_array((information, (found.row, found.col)), shape=total.shape)
    result.eliminate_zeros()
    return result
