"""Checked tables to students' sequences; names to the indices a model knows."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from kt_forecast.data.encoding import flatten
from kt_forecast.data.interactions import Interactions
from kt_forecast.data.splits import Role, Split
from kt_forecast.errors import InputError
from kt_forecast.schema import (
    ANSWER_EXTRAS,
    CONCEPTS,
    QUESTION,
    RESPONSE,
    STUDENT,
    TIME,
)
from kt_forecast.sequences.interactions import StudentSequences, Vocabulary

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def fit_vocabulary(
    interactions: Interactions,
    rows: Mask | Split | None = None,
    *,
    extras: Sequence[str] = (),
) -> Vocabulary:
    """Return the names that training rows hold, in text order.

    Args:
        interactions: the table.
        rows: the rows to fit on: a mask, the training rows of a split, or all.
        extras: answer-side columns the model shall read; none by default, as published results
            without them cannot be compared with results that use them.

    Raises:
        InputError: an extra is not an answer-side column of the table.
    """
    for extra in extras:
        if extra not in ANSWER_EXTRAS or extra not in interactions.frame.columns:
            known = [column for column in ANSWER_EXTRAS if column in interactions.frame.columns]
            raise InputError(
                f"{interactions.name}: has no answer-side column {extra!r}; accepted are"
                f" {', '.join(known) or 'none'}"
            )
    frame = interactions.frame.select(QUESTION, CONCEPTS)
    if isinstance(rows, Split):
        rows = rows.scored(Role.TRAIN)
    if rows is not None:
        frame = frame.filter(pl.Series(rows))
    _, concept = flatten(frame[CONCEPTS])
    return Vocabulary(
        questions=_used(frame[QUESTION].to_numpy(), interactions.questions),
        concepts=_used(concept, interactions.concepts),
        extras=tuple(extras),
    )


def _used(codes: npt.NDArray[np.uint32], names: pl.Series) -> tuple[str, ...]:
    seen = np.zeros(len(names), dtype=np.bool_)
    seen[codes] = True
    return tuple(names.filter(pl.Series(seen)).to_list())


def build_role(
    interactions: Interactions, vocabulary: Vocabulary, split: Split, role: Role
) -> StudentSequences:
    """Return the sequences of one role; where roles share students, with their history."""
    return build(interactions, vocabulary, rows=split.visible(role), scored=split.scored(role))


def build(
    interactions: Interactions,
    vocabulary: Vocabulary,
    *,
    rows: Mask | None = None,
    scored: Mask | None = None,
) -> StudentSequences:
    """Return the sequences of the students that have a scored row.

    Args:
        interactions: the table.
        vocabulary: names to indices; other names become index 0.
        rows: which rows enter the sequences; all by default.
        scored: which rows count; all that enter by default.

    Raises:
        InputError: nothing is scored, or the table lacks an extra of the vocabulary.
    """
    frame = interactions.frame
    chosen = _chosen(frame[STUDENT].to_numpy(), rows, scored)
    if not len(chosen):
        raise InputError(
            f"{interactions.name}: no row is to be scored; accepted is a choice of one or more"
        )
    student = frame[STUDENT].to_numpy()[chosen]
    first = _first_of_groups(student)
    start = np.append(np.flatnonzero(first), len(chosen))
    event, seconds = _events(interactions, chosen, first)
    concept_start, concept = _concepts(interactions, vocabulary, chosen)
    question = _indices(interactions.questions, vocabulary.questions)
    counts = np.ones(len(chosen), dtype=np.bool_) if scored is None else scored[chosen]
    return StudentSequences(
        start=torch.from_numpy(start),
        student=torch.from_numpy(student[start[:-1]].astype(np.int32)),
        question=torch.from_numpy(question[frame[QUESTION].to_numpy()[chosen]]),
        concept_start=torch.from_numpy(concept_start),
        concept=torch.from_numpy(concept),
        response=torch.from_numpy(frame[RESPONSE].to_numpy()[chosen].astype(np.int32)),
        event=torch.from_numpy(event),
        seconds=None if seconds is None else torch.from_numpy(seconds),
        extras=_extras(interactions, vocabulary, chosen),
        row=torch.from_numpy(chosen.astype(np.int32)),
        scored=torch.from_numpy(counts),
    )


def _chosen(student: npt.NDArray[np.uint32], rows: Mask | None, scored: Mask | None) -> Ints:
    """Return the rows of students that have a scored row among those chosen."""
    if rows is None and scored is None:
        return np.arange(len(student))
    entering = np.ones(len(student), dtype=np.bool_) if rows is None else rows
    counting = entering if scored is None else entering & scored
    asked = np.zeros(int(student.max(initial=0)) + 1, dtype=np.bool_)
    asked[student[counting]] = True
    return np.flatnonzero(entering & asked[student])


def _first_of_groups(values: npt.NDArray[np.uint32]) -> Mask:
    first = np.ones(len(values), dtype=np.bool_)
    first[1:] = values[1:] != values[:-1]
    return first


def _events(
    interactions: Interactions, chosen: Ints, first: Mask
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32] | None]:
    """Return the event rank of each step and the seconds since the event before it."""
    steps = np.diff(np.append(np.flatnonzero(first), len(chosen)))
    if TIME not in interactions.frame.columns:
        return _count_up(np.ones(len(chosen), dtype=np.bool_), first, steps), None
    time = interactions.frame[TIME].to_numpy()[chosen]
    seconds = np.zeros(len(chosen), dtype=np.float32)
    np.divide(time[1:] - time[:-1], 1000.0, out=seconds[1:], casting="same_kind")
    seconds[first] = 0.0
    if not interactions.bundled:
        return _count_up(np.ones(len(chosen), dtype=np.bool_), first, steps), seconds
    new = first.copy()
    new[1:] |= time[1:] != time[:-1]
    # The later steps of a bundle came as long after the event before as its first step did.
    later = np.flatnonzero(~new)
    opening = np.flatnonzero(new)
    seconds[later] = seconds[opening[np.searchsorted(opening, later) - 1]]
    return _count_up(new, first, steps), seconds


def _count_up(new: Mask, first: Mask, steps: Ints) -> npt.NDArray[np.int32]:
    """Return how many events began in the student before the step's own."""
    rank = np.cumsum(new, dtype=np.int32)
    rank -= np.repeat(rank[first], steps)
    return rank


def _concepts(
    interactions: Interactions, vocabulary: Vocabulary, chosen: Ints
) -> tuple[Ints, npt.NDArray[np.int32]]:
    lists = interactions.frame[CONCEPTS]
    if len(chosen) < len(lists):
        lists = lists.gather(pl.Series(chosen))
    offsets, codes = flatten(lists)
    return offsets.copy(), _indices(interactions.concepts, vocabulary.concepts)[codes]


def _indices(names: pl.Series, known: tuple[str, ...]) -> npt.NDArray[np.int32]:
    """Return the index of each name: its place among the known plus 1, or 0."""
    place = {name: index for index, name in enumerate(known, start=1)}
    return np.fromiter((place.get(n, 0) for n in names), dtype=np.int32, count=len(names))


def _extras(interactions: Interactions, vocabulary: Vocabulary, chosen: Ints) -> torch.Tensor:
    """Return the answer-side columns of the vocabulary.

    Raises:
        InputError: the table lacks one.
    """
    columns = np.zeros((len(chosen), len(vocabulary.extras)), dtype=np.float32)
    for place, extra in enumerate(vocabulary.extras):
        if extra not in interactions.frame.columns:
            raise InputError(
                f"{interactions.name}: has no column {extra!r}, which the model reads; accepted is"
                " a table that has it"
            )
        columns[:, place] = interactions.frame[extra].to_numpy()[chosen]
    return torch.from_numpy(columns)
