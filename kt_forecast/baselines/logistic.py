"""Causal logistic regression on the question, its concepts and counts of earlier answers.

Known as Best-LR; Performance Factors Analysis with questions. The logit is a sum of a weight of
the question, a weight of each concept, and slopes times log(1 + n) of six counts: answers that
were right and wrong before, on the concepts, on the question and overall. The same counts over
the latest few answers follow a student who changes, and each concept may have slopes of its own.

Departures from the paper:
    - counts over the latest answers, in the spirit of Recent-PFA (Galyardt and Goldin 2015);
      without ``recent`` the published features remain;
    - counts on several concepts enter by their mean, so that a slope means the same for one
      concept as for many;
    - answers of the step's own event count nowhere, so that a bundle leaks nothing.
"""

from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from kt_forecast.baselines import Baseline, of_scored
from kt_forecast.config import Config, Range, tunable
from kt_forecast.nn.system import Paper
from kt_forecast.sequences.counts import (
    concept_entries,
    looked_back,
    mean_of_entries,
    sums_between,
)
from kt_forecast.sequences.interactions import StudentSequences, Vocabulary

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ENOUGH = 1e-7
"""Relative gain of the penalised likelihood below which the fit ends."""


class LogisticConfig(Config):
    """Settings of `Logistic`.

    Attributes:
        penalty: on half the sum of squared weights, against the summed log loss.
        slopes: give each concept slopes of its own, beside the shared ones.
        recent: count the latest so many answers too, on the concepts, on the question and overall.
        iterations: at most so many steps of L-BFGS.
    """

    penalty: float = tunable(1.0, Range(low=0.1, high=10.0, log=True), gt=0.0)
    slopes: bool = tunable(default=True, space=(True, False))
    recent: tuple[int, ...] = (1, 4, 16)
    iterations: int = tunable(500, (200, 500, 1000), gt=0)


class Logistic:
    """Sparse logistic regression on causal features."""

    def __init__(self, config: LogisticConfig) -> None:
        self.config = config
        self.sizes = (1, 1)
        self.weight = np.zeros(0)
        self.intercept = 0.0

    def fit(
        self, train: StudentSequences, valid: StudentSequences | None, vocabulary: Vocabulary
    ) -> Self:
        """Fit the weights to the scored training answers; ``valid`` is not read."""
        del valid
        self.sizes = (len(vocabulary.questions) + 1, len(vocabulary.concepts) + 1)
        scored = train.scored.numpy()
        features = self.features(train, None, "steps")[scored]
        response = train.response.numpy()[scored].astype(np.float64)
        self.weight, self.intercept = _fitted(features, response, self.config)
        return self

    def predict(
        self,
        sequences: StudentSequences,
        *,
        history: int | None = None,
        unit: Literal["steps", "rows"] = "steps",
    ) -> npt.NDArray[np.float64]:
        """Return p_correct of each step from what it may look back on; nan where not scored."""
        from scipy.special import expit

        logit = self.features(sequences, history, unit) @ self.weight + self.intercept
        return of_scored(sequences, expit(logit))

    def features(
        self, sequences: StudentSequences, history: int | None, unit: Literal["steps", "rows"]
    ) -> "csr_array":
        """Return one sparse row a step: question, concepts, counts, counts by concept."""
        from scipy.sparse import csr_array, hstack

        n, (questions, concepts) = sequences.n_steps, self.sizes
        place, question = np.arange(n), sequences.question.numpy()
        step, concept = concept_entries(sequences)
        tallies = [
            _tallies(sequences, looked_back(sequences, history, unit), last)
            for last in (None, *self.config.recent)
        ]
        known = (question > 0).astype(np.float64)
        blocks = [
            csr_array((known, (place, question)), shape=(n, questions)),
            csr_array(((concept > 0).astype(np.float64), (step, concept)), shape=(n, concepts)),
            csr_array(np.concatenate([shared for shared, _ in tallies], axis=1)),
        ]
        if self.config.slopes:
            size = np.diff(sequences.concept_start.numpy())
            of_each = tallies[0][1] / size[step][:, None]
            blocks += [
                csr_array((column, (step, concept)), shape=(n, concepts)) for column in of_each.T
            ]
        return csr_array(hstack(blocks, format="csr"))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the weights and the sizes of the vocabulary."""
        return {
            "weight": self.weight,
            "intercept": np.array([self.intercept]),
            "sizes": np.array(self.sizes),
        }

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Take the weights and the sizes."""
        self.weight, self.intercept = arrays["weight"], float(arrays["intercept"][0])
        questions, concepts = arrays["sizes"]
        self.sizes = (int(questions), int(concepts))
        return self


def _tallies(
    sequences: StudentSequences,
    looks_back: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    last: int | None,
) -> tuple[Float[np.ndarray, "steps counts"], Float[np.ndarray, "entries outcomes"]]:
    """Return log(1 + n) of right and of wrong answers before each step, the latest or all.

    Returns:
        Counts on the concepts (their mean), on the question and overall; and the counts of each
        member of each concept set. Unknown names count nothing.
    """
    n = sequences.n_steps
    first, stop = looks_back
    place, question = np.arange(n), sequences.question.numpy()
    step, concept = concept_entries(sequences)
    right = sequences.response.numpy().astype(np.float64)
    outcome = np.stack([right, 1.0 - right], axis=1)
    on_concept = np.log1p(
        sums_between(concept, step, outcome[step], first[step], stop[step], last=last)
    )
    on_concept *= (concept > 0)[:, None]
    on_question = np.log1p(sums_between(question, place, outcome, first, stop, last=last))
    on_question *= (question > 0)[:, None]
    overall = np.log1p(sums_between(np.zeros_like(place), place, outcome, first, stop, last=last))
    pooled = np.stack([mean_of_entries(step, column, 0.0, n) for column in on_concept.T], axis=1)
    return np.concatenate([pooled, on_question, overall], axis=1), on_concept


def _fitted(
    features: "csr_array", response: Float[np.ndarray, " answers"], config: LogisticConfig
) -> tuple[Float[np.ndarray, " features"], float]:
    """Return the weights and the intercept that minimise log loss plus penalty."""
    from scipy.optimize import minimize
    from scipy.special import expit

    # Weights are sought in units in which the loss curves alike along each, else the search crawls.
    curvature = features.multiply(features).sum(axis=0) / 4.0 + config.penalty
    unit = 1.0 / np.sqrt(np.append(curvature, len(response) / 4.0))
    transposed = features.T.tocsr()
    sign = 2.0 * response - 1.0

    def loss(
        scaled: Float[np.ndarray, " parameters"],
    ) -> tuple[float, Float[np.ndarray, " parameters"]]:
        weight, intercept = (scaled * unit)[:-1], (scaled * unit)[-1]
        margin = sign * (features @ weight + intercept)
        slope = -sign * expit(-margin)
        value = np.logaddexp(0.0, -margin).sum() + 0.5 * config.penalty * (weight @ weight)
        gradient = transposed @ slope + config.penalty * weight
        return float(value), np.append(gradient, slope.sum()) * unit

    found = minimize(
        loss,
        np.zeros(features.shape[1] + 1),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": config.iterations, "ftol": ENOUGH},
    )
    best = found.x * unit
    return best[:-1], float(best[-1])


BASELINE = Baseline(
    config=LogisticConfig,
    build=Logistic,
    paper=Paper(
        title="When is Deep Learning the Best Approach to Knowledge Tracing?",
        authors="Gervet, Koedinger, Schneider, Mitchell",
        year=2020,
        url="https://doi.org/10.5281/zenodo.4143614",
    ),
)
