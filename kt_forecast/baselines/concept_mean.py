"""How often training students were right on the concepts: no student is traced.

The share of correct answers of each concept, drawn towards the overall share as if some more
answers of average outcome had been seen. A question with several concepts gets their mean.
"""

from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from kt_forecast.baselines import Baseline, of_scored
from kt_forecast.config import Config, Range, tunable
from kt_forecast.nn.system import Paper
from kt_forecast.sequences.counts import concept_entries, mean_of_entries
from kt_forecast.sequences.interactions import StudentSequences, Vocabulary


class ConceptMeanConfig(Config):
    """Settings of `ConceptMean`.

    Attributes:
        strength: answers of overall outcome that are added to each concept's own.
    """

    strength: float = tunable(5.0, Range(low=0.5, high=50.0, log=True), gt=0.0)


class ConceptMean:
    """Smoothed share of correct answers by concept."""

    def __init__(self, config: ConceptMeanConfig) -> None:
        self.config = config
        self.overall = 0.5
        self.concept = np.full(1, self.overall)

    def fit(
        self, train: StudentSequences, valid: StudentSequences | None, vocabulary: Vocabulary
    ) -> Self:
        """Count the scored training answers; ``valid`` is not read."""
        del valid
        scored = train.scored.numpy()
        response = train.response.numpy().astype(np.float64)
        self.overall = (response[scored].sum() + 1) / (scored.sum() + 2)
        step, concept = concept_entries(train)
        counted = scored[step]
        self.concept = smoothed(
            concept[counted],
            response[step[counted]],
            towards=np.full(len(vocabulary.concepts) + 1, self.overall),
            strength=self.config.strength,
        )
        return self

    def predict(
        self,
        sequences: StudentSequences,
        *,
        history: int | None = None,
        unit: Literal["steps", "rows"] = "steps",
    ) -> npt.NDArray[np.float64]:
        """Return the mean of the concepts' shares; the past is not read."""
        del history, unit
        return of_scored(sequences, self.of_steps(sequences))

    def of_steps(self, sequences: StudentSequences) -> Float[np.ndarray, " steps"]:
        """Return the prediction of every step, scored or not."""
        step, concept = concept_entries(sequences)
        return mean_of_entries(step, self.concept[concept], self.overall, sequences.n_steps)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the shares."""
        return {"overall": np.array([self.overall]), "concept": self.concept}

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Take the shares."""
        self.overall, self.concept = float(arrays["overall"][0]), arrays["concept"]
        return self


def smoothed(
    key: npt.NDArray[np.integer[Any]],
    response: Float[np.ndarray, " answers"],
    towards: Float[np.ndarray, " keys"],
    strength: float,
) -> Float[np.ndarray, " keys"]:
    """Return the share of correct answers of each key, drawn towards another share.

    Args:
        key: what each answer belongs to.
        response: 0 or 1.
        towards: the share a key without answers gets.
        strength: answers that the other share counts for.
    """
    right = np.bincount(key, weights=response, minlength=len(towards))
    return (right + strength * towards) / (np.bincount(key, minlength=len(towards)) + strength)


BASELINE = Baseline(
    config=ConceptMeanConfig,
    build=ConceptMean,
    paper=Paper(
        title="How Deep is Knowledge Tracing?",
        authors="Khajah, Lindsey, Mozer",
        year=2016,
        url="https://arxiv.org/abs/1604.02416",
    ),
)
