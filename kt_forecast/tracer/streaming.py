"""One student, one answer at a time: what a running service holds for each of its students."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kt_forecast.errors import InputError
from kt_forecast.sequences.interactions import Batch, StudentSequences
from kt_forecast.tasks.knowledge_tracing import Tracer, TracerState
from kt_forecast.tracer.fitting import Fitted

MS_A_SECOND = 1000.0
QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Step:
    """One question put to the student, in the model's vocabulary.

    Attributes:
        question: index; 0 where the model does not know it.
        concepts: indices; those that the model does not know are 0.
        event: rank of its event.
        seconds: since the event before it.
        response: 0 or 1; means nothing before the answer.
        extras: answer-side columns.
    """

    question: int
    concepts: tuple[int, ...]
    event: int
    seconds: float
    response: int = 0
    extras: tuple[float, ...] = ()


class Stream:
    """The running state of one student; equal to predicting on the whole history at once.

    Args:
        fitted: the model.
        bundled: equal times form one event, whose questions see none of each other's responses.
    """

    def __init__(self, fitted: Fitted, *, bundled: bool = True) -> None:
        self._fitted = fitted
        self._bundled = bundled
        vocabulary = fitted.vocabulary
        self._questions = {name: i for i, name in enumerate(vocabulary.questions, start=1)}
        self._concepts = {name: i for i, name in enumerate(vocabulary.concepts, start=1)}
        self._event = -1
        self._time: int | float | None = None
        self._gap = 0.0
        self._memory = _memory(fitted)

    @property
    def concepts(self) -> tuple[str, ...]:
        """Return the names of the concepts, in the order of what `answer` returns."""
        return self._fitted.vocabulary.concepts

    def ask(
        self,
        question: object = None,
        concepts: Iterable[object] = (),
        *,
        time: int | float | None = None,
    ) -> float:
        """Return the probability that the student would answer a question correctly now.

        Args:
            question: its name; one that the model does not know, or None, is told by its concepts.
            concepts: names of its concepts.
            time: when it is put, in milliseconds; by default right after the last answer.

        Raises:
            InputError: the time lies before the last answer's.
        """
        return float(self._memory.ask([self._step(question, concepts, time)])[0])

    def answer(
        self,
        question: object = None,
        concepts: Iterable[object] = (),
        response: int = 0,
        *,
        time: int | float | None = None,
        extras: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Take in one answer; return the probability of a correct next answer on each concept.

        Args:
            question: its name, or None.
            concepts: names of its concepts.
            response: 1 for a correct answer, 0 for a wrong one.
            time: when it was put, in milliseconds; equal times are one event.
            extras: answer-side columns that the model was trained with.

        Raises:
            InputError: the response is neither 0 nor 1, the time lies before the last answer's,
                or an answer-side column is missing.
        """
        self.take(question, concepts, response, time=time, extras=extras)
        return dict(zip(self.concepts, self.mastery().tolist(), strict=True))

    def take(
        self,
        question: object = None,
        concepts: Iterable[object] = (),
        response: int = 0,
        *,
        time: int | float | None = None,
        extras: dict[str, float] | None = None,
    ) -> None:
        """Take in one answer, as `answer` does, and predict nothing yet.

        Raises:
            InputError: as `answer`.
        """
        if response not in {0, 1}:
            raise InputError(f"response is {response!r}; accepted are 0 and 1")
        given = extras or {}
        missing = [name for name in self._fitted.vocabulary.extras if name not in given]
        if missing:
            raise InputError(
                f"extras lack {missing[0]!r}, which the model reads; accepted is a number"
            )
        step = self._step(question, concepts, time)
        values = tuple(float(given[name]) for name in self._fitted.vocabulary.extras)
        self._memory.take(replace(step, response=int(response), extras=values))
        self._event, self._gap = step.event, step.seconds
        if time is not None:
            self._time = time

    def mastery(self, concepts: Sequence[int] | None = None) -> npt.NDArray[np.float64]:
        """Return the probability of a correct answer on each concept, of a question unknown so far.

        Args:
            concepts: their indices; all by default.
        """
        wanted = range(1, len(self.concepts) + 1) if concepts is None else concepts
        steps = [Step(0, (index,), self._event + 1, 0.0) for index in wanted]
        return self._memory.ask(steps) if steps else np.zeros(0)

    def _step(self, question: object, concepts: Iterable[object], time: int | float | None) -> Step:
        """Translate names and time.

        Raises:
            InputError: the time lies before the last answer's.
        """
        if isinstance(concepts, str):
            concepts = (concepts,)
        known = (self._concepts.get(name, 0) for name in {str(name) for name in concepts})
        indices = tuple(sorted(known))
        index = self._questions.get(str(question), 0)
        if time is None or self._time is None:
            return Step(index, indices, self._event + 1, 0.0)
        if time < self._time:
            raise InputError(
                f"time {time} lies before the last answer's, {self._time}; accepted are answers in"
                " the order of time"
            )
        if time == self._time and self._bundled:
            return Step(index, indices, self._event, self._gap)
        seconds = (time - self._time) / MS_A_SECOND
        return Step(index, indices, self._event + 1, seconds)


def _memory(fitted: Fitted) -> "_Running | _Retelling":
    """Return the running state where the model has one, else the history to tell it anew."""
    tracer = fitted.tracer
    if tracer is not None and fitted.plan.history is None:
        return _Running(tracer, len(fitted.vocabulary.extras))
    return _Retelling(fitted)


class _Running:
    """A tracer's own state."""

    def __init__(self, tracer: Tracer, n_extras: int) -> None:
        self.tracer = tracer.eval()
        self.device = next(tracer.parameters()).device
        self.n_extras = n_extras
        self.state: TracerState = tracer.init_state(1)

    def take(self, step: Step) -> None:
        with torch.inference_mode():
            _, state = self.tracer(_batch([step], self.n_extras).to(self.device), self.state)
        self.state = state

    def ask(self, steps: list[Step]) -> npt.NDArray[np.float64]:
        found = []
        for low in range(0, len(steps), QUERIES_AT_ONCE):
            some = steps[low : low + QUERIES_AT_ONCE]
            state = self.state.map(partial(_repeated, times=len(some)))
            with torch.inference_mode():
                logits, _ = self.tracer(_batch(some, self.n_extras).to(self.device), state)
            found.append(logits[:, 0].double().sigmoid().cpu().numpy())
        return np.concatenate(found)


@dataclass
class _Retelling:
    """The answers so far, told anew for each prediction: for models without a running state."""

    fitted: Fitted
    steps: list[Step] = field(default_factory=list)

    def take(self, step: Step) -> None:
        self.steps.append(step)

    def ask(self, steps: list[Step]) -> npt.NDArray[np.float64]:
        sequences = _sequences(self.steps, steps, len(self.fitted.vocabulary.extras))
        p_correct = self.fitted.predict(sequences, history=self.fitted.plan.history)
        return p_correct[sequences.scored.numpy()]


def _batch(steps: list[Step], n_extras: int) -> Batch:
    """Return single steps of several students."""
    widest = max(1, *(len(step.concepts) for step in steps))
    concepts = [step.concepts + (0,) * (widest - len(step.concepts)) for step in steps]
    rows = torch.arange(len(steps))[:, None]
    return Batch(
        question=torch.tensor([[step.question] for step in steps]),
        concepts=torch.tensor(concepts)[:, None],
        response=torch.tensor([[step.response] for step in steps]),
        event=torch.tensor([[step.event] for step in steps]),
        seconds=torch.tensor([[step.seconds] for step in steps]),
        extras=torch.tensor([_filled(step, n_extras) for step in steps])[:, None],
        real=torch.ones_like(rows, dtype=torch.bool),
        scored=torch.ones_like(rows, dtype=torch.bool),
        place=rows,
    )


def _sequences(before: list[Step], queries: list[Step], n_extras: int) -> StudentSequences:
    """Return one student for each query: the answers before, and then the query, which counts."""
    told = [step for query in queries for step in (*before, query)]
    length = len(before) + 1
    sizes = [len(step.concepts) for step in told]
    concept_start = np.concatenate([[0], np.cumsum(sizes)])
    scored = torch.zeros(len(queries), length, dtype=torch.bool)
    scored[:, -1] = True
    return StudentSequences(
        start=torch.arange(len(queries) + 1) * length,
        student=torch.arange(len(queries), dtype=torch.int32),
        question=torch.tensor([step.question for step in told], dtype=torch.int32),
        concept_start=torch.from_numpy(concept_start.astype(np.int64)),
        concept=torch.tensor([c for step in told for c in step.concepts], dtype=torch.int32),
        response=torch.tensor([step.response for step in told], dtype=torch.int32),
        event=torch.tensor([step.event for step in told], dtype=torch.int32),
        seconds=torch.tensor([step.seconds for step in told]),
        extras=torch.tensor([_filled(step, n_extras) for step in told]),
        row=torch.arange(len(told), dtype=torch.int32),
        scored=scored.flatten(),
    )


def _repeated(tensor: torch.Tensor, times: int) -> torch.Tensor:
    return tensor.expand(times, *tensor.shape[1:])


def _filled(step: Step, n_extras: int) -> tuple[float, ...]:
    return step.extras or (0.0,) * n_extras


def mastery_over_time(
    fitted: Fitted, sequences: StudentSequences, concepts: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Return, after every answer of one student, the probability of being right on each concept.

    Args:
        fitted: the model.
        sequences: one student, in the model's vocabulary.
        concepts: indices of the concepts.

    Returns:
        Steps by concepts.
    """
    memory: Any = _memory(fitted)
    rows = []
    for step in steps_of(sequences):
        memory.take(step)
        queries = [Step(0, (index,), step.event + 1, 0.0) for index in concepts]
        rows.append(memory.ask(queries) if queries else np.zeros(0))
    return np.stack(rows)


def steps_of(sequences: StudentSequences) -> list[Step]:
    """Return the steps of one student, with what was answered."""
    start = sequences.concept_start.tolist()
    concept = sequences.concept.tolist()
    seconds = sequences.seconds
    return [
        Step(
            question=int(sequences.question[i]),
            concepts=tuple(concept[start[i] : start[i + 1]]),
            event=int(sequences.event[i]),
            seconds=0.0 if seconds is None else float(seconds[i]),
            response=int(sequences.response[i]),
            extras=tuple(sequences.extras[i].tolist()),
        )
        for i in range(sequences.n_steps)
    ]
