"""Bayesian Knowledge Tracing: each concept is known or not, and each practice may teach it.

A hidden Markov chain of two states for each student and concept. A student who knows the concept
errs with chance slip, one who does not is right with chance guess, and each answered step turns
not knowing into knowing with chance learn. Fitted by expectation maximisation (Baum-Welch).

Departures from the paper:
    - guess and slip have upper bounds that forbid an inverted meaning of knowing, and each
      concept's chances are drawn towards those of all concepts together, which are fitted first
      and serve a concept that training never saw;
    - a question with several concepts is predicted by the mean over its concepts, and its answer
      updates each of them;
    - answers of one event update knowledge only after the event.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from kt_forecast.baselines import Baseline, of_scored
from kt_forecast.config import Config, Range, tunable
from kt_forecast.nn.system import Paper
from kt_forecast.sequences.counts import (
    concept_entries,
    looked_back,
    mean_of_entries,
    ranges_of_key,
)
from kt_forecast.sequences.interactions import StudentSequences, Vocabulary

PRIOR, LEARN, GUESS, SLIP = range(4)
"""Columns of the chances."""

START = (0.4, 0.1, 0.25, 0.15)
"""Where expectation maximisation begins, in the order of the columns."""

LEAST = 0.001
"""No chance comes closer to 0 or 1, where expectation maximisation could not leave again."""


class BKTConfig(Config):
    """Settings of `BKT`.

    Attributes:
        max_guess: upper bound of a right answer without knowing.
        max_slip: upper bound of a wrong answer in spite of knowing.
        strength: observations that the chances of all concepts count for in each concept.
        iterations: at most so many steps of expectation maximisation.
        enough: gain of the likelihood, per observation, below which it ends.
    """

    max_guess: float = tunable(0.5, (0.3, 0.4, 0.5), gt=0.0, le=0.5)
    max_slip: float = tunable(0.5, (0.1, 0.3, 0.5), gt=0.0, le=0.5)
    strength: float = tunable(10.0, Range(low=1.0, high=100.0, log=True), ge=0.0)
    iterations: int = tunable(100, (30, 100, 300), gt=0)
    enough: float = 1e-6


class BKT:
    """One two-state chain for each concept."""

    def __init__(self, config: BKTConfig) -> None:
        self.config = config
        self.chances = np.array([START])
        self.progress: tuple[float, ...] = ()

    def fit(
        self, train: StudentSequences, valid: StudentSequences | None, vocabulary: Vocabulary
    ) -> Self:
        """Fit the chances to the scored training answers; ``valid`` is not read.

        ``progress`` afterwards holds the penalised log likelihood after each step, for the chances
        by concept; it never falls.
        """
        del valid
        chains = _Chains.of(train)
        together = self._maximise(chains.of_one_concept(), np.array([START]), strength=0.0)
        start = np.repeat(together, len(vocabulary.concepts) + 1, axis=0)
        self.chances = self._maximise(chains, start, strength=self.config.strength)
        return self

    def predict(
        self,
        sequences: StudentSequences,
        *,
        history: int | None = None,
        unit: Literal["steps", "rows"] = "steps",
    ) -> npt.NDArray[np.float64]:
        """Return p_correct of each step from what it may look back on; nan where not scored."""
        step, concept, known = self.knowing(sequences, history=history, unit=unit)
        chances = self.chances[concept]
        right = known * (1.0 - chances[:, SLIP]) + (1.0 - known) * chances[:, GUESS]
        return of_scored(sequences, mean_of_entries(step, right, 0.5, sequences.n_steps))

    def knowing(
        self,
        sequences: StudentSequences,
        *,
        history: int | None = None,
        unit: Literal["steps", "rows"] = "steps",
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return step, concept and the chance that the student knows it, before the step."""
        first, stop = looked_back(sequences, history, unit)
        step, concept = concept_entries(sequences, empty=True)
        order, low, high = ranges_of_key(concept, step, first[step], stop[step])
        passing = _passing(self.chances[concept[order]], sequences.response.numpy()[step[order]])
        return step, concept, _passed(self.chances[concept, PRIOR], passing, low, high - low)

    def _maximise(
        self, chains: "_Chains", chances: Float[np.ndarray, "concepts 4"], strength: float
    ) -> Float[np.ndarray, "concepts 4"]:
        """Return the chances after expectation maximisation, which starts from ``chances``."""
        towards = chances
        progress: list[float] = []
        lowest = np.full(4, LEAST)
        highest = np.array([1 - LEAST, 1 - LEAST, self.config.max_guess, self.config.max_slip])
        chances = chances.clip(lowest, highest)
        for _ in range(self.config.iterations):
            likelihood, yes, times = chains.expect(chances)
            yes, times = yes + strength * towards, times + strength
            drawn = towards * np.log(chances) + (1 - towards) * np.log1p(-chances)
            progress.append(likelihood + strength * float(drawn.sum()))
            # Each chance's part of the expected likelihood is concave, so clipping maximises it.
            better = np.divide(yes, times, out=chances.copy(), where=times > 0)
            chances = better.clip(lowest, highest)
            if len(progress) > 1 and progress[-1] - progress[-2] < self.config.enough * chains.n:
                break
        self.progress = tuple(progress)
        return chances

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the chances."""
        return {"chances": self.chances}

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Take the chances."""
        self.chances = arrays["chances"]
        return self


@dataclass(frozen=True)
class _Chains:
    """Every student's scored answers on every concept, laid out by their place in the chain.

    Chains stand longest first, so those with an answer at place t are the first few, and the
    answers at place t lie together.

    Attributes:
        concept: of each chain.
        length: answers of each chain, falling.
        correct: the answers at place 0 of all chains, then at place 1, and so on.
        offset: where each place begins in ``correct``, and the end.
    """

    concept: Int[np.ndarray, " chains"]
    length: Int[np.ndarray, " chains"]
    correct: Float[np.ndarray, " answers"]
    offset: Int[np.ndarray, " places_and_end"]

    @classmethod
    def of(cls, sequences: StudentSequences) -> "_Chains":
        step, concept = concept_entries(sequences, empty=True)
        scored = sequences.scored.numpy()[step]
        step, concept = step[scored], concept[scored]
        start = sequences.start.numpy()
        student = np.repeat(np.arange(sequences.n_students), np.diff(start))[step]
        order = np.lexsort((step, concept, student))
        step, concept, student = step[order], concept[order], student[order]
        new = np.ones(len(step), dtype=np.bool_)
        new[1:] = (concept[1:] != concept[:-1]) | (student[1:] != student[:-1])
        begin = np.flatnonzero(new)
        length = np.diff(np.append(begin, len(step)))
        by_length = np.argsort(-length, kind="stable")
        rank = np.empty_like(by_length)
        rank[by_length] = np.arange(len(begin))
        place = np.arange(len(step)) - np.repeat(begin, length)
        packed = np.lexsort((np.repeat(rank, length), place))
        correct = sequences.response.numpy()[step[packed]].astype(np.float64)
        offset = np.concatenate([[0], np.cumsum(np.bincount(place))])
        return cls(concept[begin][by_length], length[by_length], correct, offset)

    @property
    def n(self) -> int:
        """Return the number of answers."""
        return len(self.correct)

    def of_one_concept(self) -> "_Chains":
        """Return the same chains as if all were of concept 0."""
        return _Chains(np.zeros_like(self.concept), self.length, self.correct, self.offset)

    def expect(
        self, chances: Float[np.ndarray, "concepts 4"]
    ) -> tuple[float, Float[np.ndarray, "concepts 4"], Float[np.ndarray, "concepts 4"]]:
        """Return the log likelihood and, of each chance, its expected successes and trials."""
        of_chain = chances[self.concept]
        before, after, likelihood = self._filtered(of_chain)
        known = self._smoothed(before, after)
        first = known[: len(self.concept)]
        owner = np.concatenate([np.arange(n) for n in np.diff(self.offset)])
        ends = self.offset[self.length - 1] + np.arange(len(self.length))
        is_end = np.zeros(self.n, dtype=np.bool_)
        is_end[ends] = True
        concept = self.concept[owner]

        def total(
            of: npt.NDArray[np.int64], amount: Float[np.ndarray, " entries"]
        ) -> Float[np.ndarray, " concepts"]:
            return np.bincount(of, weights=amount, minlength=len(chances))

        yes, times = np.zeros((2, *chances.shape))
        yes[:, PRIOR], times[:, PRIOR] = (
            total(self.concept, first),
            np.bincount(self.concept, minlength=len(chances)),
        )
        # Knowing is never lost, so what is known at the end and was not at first was learned.
        yes[:, LEARN] = total(self.concept, known[ends] - first)
        times[:, LEARN] = total(concept, np.where(is_end, 0.0, 1.0 - known))
        yes[:, GUESS] = total(concept, (1.0 - known) * self.correct)
        times[:, GUESS] = total(concept, 1.0 - known)
        yes[:, SLIP] = total(concept, known * (1.0 - self.correct))
        times[:, SLIP] = total(concept, known)
        return likelihood, yes, times

    def _filtered(
        self, chances: Float[np.ndarray, "chains 4"]
    ) -> tuple[Float[np.ndarray, " answers"], Float[np.ndarray, " answers"], float]:
        """Return the chance of knowing before and after each answer, and the log likelihood."""
        before, after, given = np.empty((3, self.n))
        known = chances[:, PRIOR]
        for low, high in zip(self.offset[:-1], self.offset[1:], strict=True):
            active, correct = chances[: high - low], self.correct[low:high]
            known = known[: high - low]
            if_known = np.where(correct > 0, 1.0 - active[:, SLIP], active[:, SLIP])
            if_not = np.where(correct > 0, active[:, GUESS], 1.0 - active[:, GUESS])
            joint = known * if_known
            before[low:high] = known
            given[low:high] = joint + (1.0 - known) * if_not
            after[low:high] = joint / given[low:high]
            known = after[low:high] + (1.0 - after[low:high]) * active[:, LEARN]
        return before, after, float(np.log(given).sum())

    def _smoothed(
        self, before: Float[np.ndarray, " answers"], after: Float[np.ndarray, " answers"]
    ) -> Float[np.ndarray, " answers"]:
        """Return the chance of knowing at each answer, given all answers of the chain."""
        known = after.copy()
        places = len(self.offset) - 1
        for place in range(places - 2, -1, -1):
            low, middle, high = self.offset[place : place + 3]
            goes_on = slice(low, low + high - middle)
            known[goes_on] = known[middle:high] * after[goes_on] / before[middle:high]
        return known


def _passing(
    chances: Float[np.ndarray, "answers 4"], response: npt.NDArray[np.integer[Any]]
) -> Float[np.ndarray, "3 answers"]:
    """Return what each answer does to the weights of (not known, known).

    The three rows are the upper triangle of a matrix that multiplies the weights from the right:
    stays unknown, becomes known, stays known.
    """
    right = response > 0
    if_known = np.where(right, 1.0 - chances[:, SLIP], chances[:, SLIP])
    if_not = np.where(right, chances[:, GUESS], 1.0 - chances[:, GUESS])
    learn = chances[:, LEARN]
    return np.stack([if_not * (1.0 - learn), if_not * learn, if_known])


def _passed(
    prior: Float[np.ndarray, " entries"],
    passing: Float[np.ndarray, "3 answers"],
    begin: npt.NDArray[np.int64],
    count: npt.NDArray[np.int64],
) -> Float[np.ndarray, " entries"]:
    """Return the chance of knowing after ``count`` answers from ``begin`` on, for every entry.

    Products over runs of one, two, four ... answers are made in turn and each entry takes the runs
    that its count is made of, so a range of any place and length costs the log of its length.
    """
    unknown, known = 1.0 - prior, prior.copy()
    at = begin.copy()
    for bit in range(int(count.max(initial=0)).bit_length()):
        run = 1 << bit
        taken = np.flatnonzero(count & run)
        stays, becomes, remains = passing[:, at[taken]]
        known[taken] = unknown[taken] * becomes + known[taken] * remains
        unknown[taken] *= stays
        total = known[taken] + unknown[taken]
        known[taken] /= total
        unknown[taken] /= total
        at[taken] += run
        passing = _joined(passing[:, :-run], passing[:, run:])
    return known


def _joined(
    left: Float[np.ndarray, "3 runs"], right: Float[np.ndarray, "3 runs"]
) -> Float[np.ndarray, "3 runs"]:
    """Return the products of triangular matrices, scaled so that none vanishes."""
    stays = left[0] * right[0]
    becomes = left[0] * right[1] + left[1] * right[2]
    remains = left[2] * right[2]
    return np.stack([stays, becomes, remains]) / (stays + becomes + remains)


BASELINE = Baseline(
    config=BKTConfig,
    build=BKT,
    paper=Paper(
        title="Knowledge Tracing: Modeling the Acquisition of Procedural Knowledge",
        authors="Corbett, Anderson",
        year=1994,
        url="https://doi.org/10.1007/BF01099821",
    ),
)
