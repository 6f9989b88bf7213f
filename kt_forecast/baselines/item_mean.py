"""How often training students were right on the question: no student is traced.

The share of correct answers of each question, drawn towards the share of its concepts, which in
turn is drawn towards the overall share. A question that training never saw gets its concepts'.
"""

from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from kt_forecast.baselines import Baseline, of_scored
from kt_forecast.baselines.concept_mean import ConceptMean, ConceptMeanConfig
from kt_forecast.config import Config, Range, tunable
from kt_forecast.nn.system import Paper
from kt_forecast.sequences.interactions import StudentSequences, Vocabulary


class ItemMeanConfig(Config):
    """Settings of `ItemMean`.

    Attributes:
        strength: answers of its concepts' outcome that are added to each question's own.
        concepts: how the concepts' shares are smoothed.
    """

    strength: float = tunable(5.0, Range(low=0.5, high=50.0, log=True), gt=0.0)
    concepts: ConceptMeanConfig = ConceptMeanConfig()


class ItemMean:
    """Smoothed share of correct answers by question."""

    def __init__(self, config: ItemMeanConfig) -> None:
        self.config = config
        self.concepts = ConceptMean(config.concepts)
        self.right = np.zeros(1)
        self.answers = np.zeros(1)

    def fit(
        self, train: StudentSequences, valid: StudentSequences | None, vocabulary: Vocabulary
    ) -> Self:
        """Count the scored training answers; ``valid`` is not read."""
        self.concepts.fit(train, valid, vocabulary)
        scored = train.scored.numpy()
        question = train.question.numpy()[scored]
        questions = len(vocabulary.questions) + 1
        right = np.bincount(question, train.response.numpy()[scored], minlength=questions)
        self.right = right.astype(np.float64)
        self.answers = np.bincount(question, minlength=questions).astype(np.float64)
        # Index 0 stands for many questions: their shared outcome says nothing about one of them.
        self.right[0] = self.answers[0] = 0.0
        return self

    def predict(
        self,
        sequences: StudentSequences,
        *,
        history: int | None = None,
        unit: Literal["steps", "rows"] = "steps",
    ) -> npt.NDArray[np.float64]:
        """Return the questions' shares; the past is not read."""
        del history, unit
        strength, question = self.config.strength, sequences.question.numpy()
        towards = self.concepts.of_steps(sequences)
        right = self.right[question] + strength * towards
        return of_scored(sequences, right / (self.answers[question] + strength))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the counts and the concepts' shares."""
        return {"right": self.right, "answers": self.answers} | self.concepts.arrays()

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Take the counts and the concepts' shares."""
        self.right, self.answers = arrays["right"], arrays["answers"]
        self.concepts.restore(arrays)
        return self


BASELINE = Baseline(
    config=ItemMeanConfig,
    build=ItemMean,
    paper=Paper(
        title="When is Deep Learning the Best Approach to Knowledge Tracing?",
        authors="Gervet, Koedinger, Schneider, Mitchell",
        year=2020,
        url="https://doi.org/10.5281/zenodo.4143614",
    ),
)
