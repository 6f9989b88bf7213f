"""Students' interactions as flat tensors with offsets: nothing is padded, nothing is copied."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Vocabulary:
    """Names a model knows, fitted on training rows; index 0 is every name it has not seen.

    Attributes:
        questions: known question names; the name at place i has index i + 1.
        concepts: known concept names; the name at place i has index i + 1.
        extras: answer-side columns the model reads, in order.
    """

    questions: tuple[str, ...]
    concepts: tuple[str, ...]
    extras: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudentSequences:
    """The interactions of many students, student after student, oldest first.

    Step ``i`` of student ``s`` stands at ``start[s] + i``; the concepts of a step at place ``n``
    are ``concept[concept_start[n]:concept_start[n + 1]]``.

    Attributes:
        start: first place of each student, and one past the last; length students + 1.
        student: code of each student in the table the sequences came from.
        question: vocabulary index, 0 where unknown.
        concept_start: offsets into ``concept``; length steps + 1.
        concept: vocabulary indices, concept sets laid end to end.
        response: 0 or 1.
        event: rank of the step's event within its student; steps of a bundle share one.
        seconds: seconds since the student's previous event, 0 at the first; None without times.
        extras: answer-side columns, steps x columns, in `Vocabulary.extras` order.
        row: row of the table that the step came from.
        scored: whether the step's prediction counts (history alone does not).
        own: what the step's own group of students added to the statistics of its question, to be
            taken out of them again; only in the sequences that statistics were fitted on.
    """

    start: Int[Tensor, " students_and_end"]
    student: Int[Tensor, " students"]
    question: Int[Tensor, " steps"]
    concept_start: Int[Tensor, " steps_and_end"]
    concept: Int[Tensor, " concepts"]
    response: Int[Tensor, " steps"]
    event: Int[Tensor, " steps"]
    seconds: Float[Tensor, " steps"] | None
    extras: Float[Tensor, "steps extras"]
    row: Int[Tensor, " steps"]
    scored: Bool[Tensor, " steps"]
    own: Float[Tensor, "steps statistic"] | None = None

    @property
    def n_students(self) -> int:
        """Return the number of students."""
        return len(self.start) - 1

    @property
    def n_steps(self) -> int:
        """Return the number of steps of all students."""
        return len(self.question)


@dataclass(frozen=True)
class Batch:
    """Steps of several students side by side, padded on the right.

    Attributes:
        question: vocabulary index; 0 where unknown or padding.
        concepts: the step's concept set; 0 fills up.
        response: 0 or 1; 0 at padding.
        event: rank of the step's event, counted from any origin, never falling along a row.
        seconds: seconds since the previous event; 0 without times.
        extras: answer-side columns, known only after the step.
        real: True where there is a step, False at padding.
        scored: True where the prediction counts for loss and metrics.
        place: place of the step in the sequences; -1 at padding.
        bundles: False promises that no two steps of a row share an event.
        own: see `StudentSequences.own`; None takes nothing out.
    """

    question: Int[Tensor, "batch time"]
    concepts: Int[Tensor, "batch time concept"]
    response: Int[Tensor, "batch time"]
    event: Int[Tensor, "batch time"]
    seconds: Float[Tensor, "batch time"]
    extras: Float[Tensor, "batch time extras"]
    real: Bool[Tensor, "batch time"]
    scored: Bool[Tensor, "batch time"]
    place: Int[Tensor, "batch time"]
    bundles: bool = True
    own: Float[Tensor, "batch time statistic"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Return batch and time."""
        return self.question.shape[0], self.question.shape[1]

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on ``device``; from pinned memory the copy does not block."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def steps(self, start: int, stop: int) -> Self:
        """Return the steps from ``start`` up to and without ``stop``."""
        return self.map(lambda tensor: tensor[:, start:stop])

    def part(self, rows: int, start: int, stop: int) -> Self:
        """Return the steps from ``start`` up to and without ``stop`` of the first rows."""
        return self.map(lambda tensor: tensor[:rows, start:stop])

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the batch with every tensor changed."""
        tensors = {
            f.name: change(value)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors)  # type: ignore[arg-type]
