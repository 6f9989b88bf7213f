"""Models without a running state: the answers so far are told anew for each prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kt_forecast.sequences.interactions import StudentSequences
from kt_forecast.serving.packing import Place, Row, after_steps
from kt_forecast.tracer.fitting import Fitted
from kt_forecast.tracer.streaming import Step


@dataclass(kw_only=True)
class Told(Place):
    """What one student answered.

    Attributes:
        steps: all of it, oldest first.
    """

    steps: tuple[Step, ...] = ()

    @property
    def size(self) -> int:
        """Return roughly how many bytes are held."""
        return _BYTES_A_STEP * len(self.steps)

    @property
    def slots(self) -> int:
        """Return how many steps are told."""
        return len(self.steps)


_BYTES_A_STEP = 200


@dataclass(frozen=True)
class Teller:
    """Answers as `Packer` does, for a model that keeps no state.

    Attributes:
        fitted: the model.
    """

    fitted: Fitted

    def fresh(self) -> Told:
        """Return what is known of a student who has answered nothing."""
        return Told()

    def run(self, rows: Sequence[Row]) -> tuple[list[float], list[Told]]:
        """Return the probabilities of the queries, and what is known after the rows without one."""
        kept = [
            Told(steps=(*row.kept.steps, *row.steps), **after_steps(row))
            for row in rows
            if row.query is None
        ]
        asked = [row for row in rows if row.query is not None]
        if not asked:
            return [], kept
        told = [(*row.kept.steps, *row.steps, row.query) for row in asked]
        sequences = sequences_of(told, len(self.fitted.vocabulary.extras))
        chances = self.fitted.predict(sequences, history=self.fitted.plan.history)
        return chances[sequences.scored.numpy()].tolist(), kept

    def write(self, kept: Told) -> bytes | None:
        """Return nothing: the log holds all there is."""

    def read(self, data: bytes) -> Told:  # noqa: ARG002 - as `Packer` reads
        """Return what is known of a student of whom nothing but the log was kept."""
        return Told()


def sequences_of(told: Sequence[Sequence[Step]], n_extras: int) -> StudentSequences:
    """Return one student for each history, of which the last step counts."""
    steps = [step for one in told for step in one]
    sizes = np.cumsum([0, *(len(step.concepts) for step in steps)])
    start = np.cumsum([0, *map(len, told)])
    scored = torch.zeros(len(steps), dtype=torch.bool)
    scored[torch.from_numpy(start[1:] - 1)] = True
    empty = (0.0,) * n_extras
    extras = [step.extras or empty for step in steps]
    return StudentSequences(
        start=torch.from_numpy(start),
        student=torch.arange(len(told), dtype=torch.int32),
        question=torch.tensor([step.question for step in steps], dtype=torch.int32),
        concept_start=torch.from_numpy(sizes.astype(np.int64)),
        concept=torch.tensor([c for step in steps for c in step.concepts], dtype=torch.int32),
        response=torch.tensor([step.response for step in steps], dtype=torch.int32),
        event=torch.tensor([step.event for step in steps], dtype=torch.int32),
        seconds=torch.tensor([step.seconds for step in steps], dtype=torch.float32),
        extras=torch.tensor(extras, dtype=torch.float32).reshape(len(steps), n_extras),
        row=torch.arange(len(steps), dtype=torch.int32),
        scored=scored,
    )
