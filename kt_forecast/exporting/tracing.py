"""The two forms of a knowledge tracer: one interaction with its state, and whole histories."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kt_forecast.errors import InputError
from kt_forecast.exporting.forms import (
    BATCH,
    CONCEPTS,
    LENGTH,
    NEXT,
    SLOTS,
    Form,
    Program,
    Shape,
    Size,
    largest,
)
from kt_forecast.sequences.interactions import Batch, Vocabulary
from kt_forecast.tasks.knowledge_tracing import Tracer, TracerState
from kt_forecast.tracer.fitting import Fitted

P_CORRECT = "p_correct"
EXTRAS, REAL = "extras", "real"
STATE = "state."
SIZES = (Size(3, 5), Size(1, 1), Size(1, 7), Size(2, 1), Size(4, 24))
FEW_STEPS = 3
MOST_CONCEPTS = 3
SECONDS = 600.0


def forms(fitted: Fitted, fixed: int | None) -> list[Form]:
    """Return the forms in which a tracer can be asked.

    Args:
        fitted: the model.
        fixed: the only length of a history that the window form takes; None for any.

    Raises:
        InputError: it is a fitted baseline.
    """
    if fitted.tracer is None:
        raise InputError(
            f"{fitted.plan.name} is a fitted baseline, whose predictions are no network that could"
            " be exported; accepted are systems, such as gpt, and dkt"
        )
    tracer = deepcopy(fitted.tracer).cpu().eval().requires_grad_(requires_grad=False)
    window = _window(tracer, fitted.vocabulary, fixed)
    if fitted.plan.history is not None:
        note = (
            f"the model looks back on {fitted.plan.history} steps at most: give it no longer"
            " histories; it has no step form, whose state would remember all"
        )
        return [replace(window, notes=(*window.notes, note))]
    return [_step(tracer, fitted.vocabulary), window]


class TracerWindow(nn.Module):
    """Probabilities of whole histories, padded on the right."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def forward(self, *given: Tensor) -> tuple[Tensor]:
        """Return the probability of a correct response to each step."""
        logits, _ = self.tracer(_batch(given[:5], given[5], given[6:]))
        return (logits.sigmoid(),)


class TracerStep(nn.Module):
    """One interaction of each student, with the state before it and after.

    Args:
        tracer: its mixer is told that every step is real.
        n_extras: answer-side columns.
        like: any state; which parts of it hold numbers is told by ``kept``.
        kept: names of those parts.
    """

    def __init__(
        self, tracer: Tracer, n_extras: int, like: TracerState, kept: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.tracer = deepcopy(tracer)
        self.tracer.mixer = _AllReal(self.tracer.mixer)
        self.columns = 5 + bool(n_extras)
        self.like = like
        self.kept = kept

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Return the probability of a correct response, and the state with the response."""
        steps = tuple(one[:, None] for one in given[: self.columns])
        real = torch.ones_like(steps[0], dtype=torch.bool)
        logits, after = self.tracer(_batch(steps[:5], real, steps[5:]), self._state(given))
        found = after.tensors()
        return (logits[:, 0].sigmoid(), *(found[name] for name in self.kept))

    def _state(self, given: tuple[Tensor, ...]) -> TracerState:
        parts = dict(zip(self.kept, given[self.columns :], strict=True))
        # `map` goes through the parts in the order in which `tensors` names them.
        names = iter(self.like.tensors())
        rows = given[0].shape[0]

        def part(like: Tensor) -> Tensor:
            name = next(names)
            return parts[name] if name in parts else like.new_zeros(rows, *like.shape[1:])

        return self.like.map(part)


class _AllReal(nn.Module):
    """A mixer without padding, which spares it looking for the real steps."""

    def __init__(self, mixer: Any) -> None:  # noqa: ANN401 - what a system builds
        super().__init__()
        self.mixer = mixer

    def forward(
        self,
        x: Tensor,
        state: Any = None,  # noqa: ANN401
        *,
        valid: Tensor | None = None,  # noqa: ARG002
        **streams: Tensor,
    ) -> tuple[Tensor, Any]:
        return self.mixer(x, state, **streams)


def _window(tracer: Tracer, vocabulary: Vocabulary, fixed: int | None) -> Form:
    module = TracerWindow(tracer)
    length: int | str = fixed or LENGTH
    sizes = tuple({Size(one.batch, fixed or one.length): None for one in SIZES})
    inputs: dict[str, Shape] = {
        "question": (BATCH, length),
        "concepts": (BATCH, length, CONCEPTS),
        "response": (BATCH, length),
        "event": (BATCH, length),
        "seconds": (BATCH, length),
        REAL: (BATCH, length),
    }
    if vocabulary.extras:
        inputs[EXTRAS] = (BATCH, length, len(vocabulary.extras))

    def draw(size: Size) -> tuple[Tensor, ...]:
        batch = drawn(vocabulary, size, padded=True)
        extras = (batch.extras,) if vocabulary.extras else ()
        return (*_columns(batch), batch.real, *extras)

    @torch.inference_mode()
    def farthest(program: Program, size: Size) -> float:
        batch = drawn(vocabulary, size, padded=True)
        expected = tracer(batch)[0].sigmoid()
        (found,) = program(draw(size))
        return largest(found[batch.real], expected[batch.real])

    return Form(
        name="window",
        module=module,
        inputs=inputs,
        outputs=(P_CORRECT,),
        example=draw(sizes[0]),
        sizes=sizes,
        farthest=farthest,
        draw=draw,
        start={},
        notes=(
            "padding stands on the right, with real False",
            *_notes(),
            *((f"pad every history to {fixed} steps",) if fixed else ()),
        ),
    )


def _step(tracer: Tracer, vocabulary: Vocabulary) -> Form:
    n_extras = len(vocabulary.extras)
    shapes, start, like = _of_state(tracer, vocabulary)
    kept = tuple(shapes)
    module = TracerStep(tracer, n_extras, like, kept)
    inputs: dict[str, Shape] = {
        "question": (BATCH,),
        "concepts": (BATCH, CONCEPTS),
        "response": (BATCH,),
        "event": (BATCH,),
        "seconds": (BATCH,),
    }
    if n_extras:
        inputs[EXTRAS] = (BATCH, n_extras)
    inputs |= {f"{STATE}{name}": shape for name, shape in shapes.items()}

    def at(batch: Batch, step: int) -> tuple[Tensor, ...]:
        columns = (*_columns(batch), *((batch.extras,) if n_extras else ()))
        return tuple(one[:, step] for one in columns)

    def beginning(rows: int) -> list[Tensor]:
        state = tracer.init_state(rows).tensors()
        return [state[name] for name in kept]

    @torch.inference_mode()
    def draw(size: Size) -> tuple[Tensor, ...]:
        batch = drawn(vocabulary, size)
        _, after = tracer(batch.steps(0, size.length - 1), tracer.init_state(size.batch))
        found = after.tensors()
        # Copies: a tensor of inference mode cannot be traced.
        return tuple(
            one.clone() for one in (*at(batch, size.length - 1), *(found[name] for name in kept))
        )

    @torch.inference_mode()
    def farthest(program: Program, size: Size) -> float:
        """Follow students from their first step: every state but the first is the program's."""
        batch = drawn(vocabulary, size)
        expected = tracer(batch)[0].sigmoid()
        state, found = beginning(size.batch), []
        for step in range(size.length):
            p_correct, *state = program((*at(batch, step), *state))
            found.append(p_correct)
        return largest(torch.stack(found, 1), expected)

    example = tuple(one.clone() for one in draw(SIZES[0]))
    return Form(
        name="step",
        module=module,
        inputs=inputs,
        outputs=(P_CORRECT, *(f"{NEXT}{STATE}{name}" for name in kept)),
        example=example,
        sizes=SIZES,
        farthest=farthest,
        draw=draw,
        start={f"{STATE}{name}": value for name, value in start.items()},
        notes=(
            "to ask, give any response and drop the state that comes back; to tell the answer,"
            " give it and keep the state",
            "a new student's state holds the start values, with no slots",
            *_notes(),
        ),
    )


def _notes() -> tuple[str, ...]:
    return (
        "question and concepts are places in the vocabulary, counted from 1; 0 is unknown, and"
        " fills up a set of concepts",
        "event counts a student's events from 0; steps of one event see none of each other's"
        " responses",
        "seconds are those since the student's event before; 0 without times",
    )


@torch.inference_mode()
def _of_state(
    tracer: Tracer, vocabulary: Vocabulary
) -> tuple[dict[str, Shape], dict[str, int | float], TracerState]:
    """Return sizes and first value of each part of a state that holds numbers, and any state.

    Raises:
        InputError: a part begins with several values.
    """
    first = tracer.init_state(2)
    _, after = tracer(drawn(vocabulary, Size(2, FEW_STEPS)), first)
    later = after.tensors()
    shapes: dict[str, Shape] = {}
    start: dict[str, int | float] = {}
    for name, begun in first.tensors().items():
        grown = later[name]
        if not grown.numel():
            continue
        free = [a != b for a, b in zip(begun.shape, grown.shape, strict=True)]
        sizes = [SLOTS if is_free else n for is_free, n in zip(free, grown.shape, strict=True)]
        shapes[name] = (BATCH, *sizes[1:])
        values = begun.unique().tolist() or [0]
        if len(values) > 1:
            raise InputError(
                f"the step form cannot be exported: its state begins with several values"
                f" ({name}); accepted is --form window"
            )
        start[name] = values[0]
    return shapes, start, tracer.init_state(1)


def _columns(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return batch.question, batch.concepts, batch.response, batch.event, batch.seconds


def _batch(columns: tuple[Tensor, ...], real: Tensor, extras: tuple[Tensor, ...]) -> Batch:
    question, concepts, response, event, seconds = columns
    return Batch(
        question=question,
        concepts=concepts,
        response=response,
        event=event,
        seconds=seconds,
        extras=extras[0] if extras else seconds.new_zeros(*seconds.shape, 0),
        real=real,
        scored=real,
        place=question,
    )


def drawn(vocabulary: Vocabulary, size: Size, *, padded: bool = False) -> Batch:
    """Return simulated histories: bundles, unknown names, empty sets of concepts among them.

    Args:
        vocabulary: fixes the indices.
        size: students and steps.
        padded: let some histories end early.
    """
    random = torch.Generator().manual_seed(size.batch * 1000 + size.length)

    def whole(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=random)

    batch, length = size.batch, size.length
    real = torch.ones(batch, length, dtype=torch.bool)
    if padded:
        real = torch.arange(length) < whole(length, batch, 1) + 1
        real[0] = True
    concepts = whole(len(vocabulary.concepts) + 1, batch, length, 1 + length % MOST_CONCEPTS)
    return Batch(
        question=whole(len(vocabulary.questions) + 1, batch, length) * real,
        concepts=concepts * real[..., None],
        response=whole(2, batch, length) * real,
        event=whole(2, batch, length).cumsum(1),
        seconds=torch.rand(batch, length, generator=random) * SECONDS,
        extras=torch.rand(batch, length, len(vocabulary.extras), generator=random),
        real=real,
        scored=real,
        place=whole(1, batch, length),
    )
