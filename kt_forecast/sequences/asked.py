"""Questions that are put and not answered yet: they close a history and inform no other step."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from kt_forecast.data.interactions import Interactions
from kt_forecast.errors import InputError
from kt_forecast.schema import RESPONSE
from kt_forecast.sequences.interactions import StudentSequences


def unite_asked(interactions: Interactions, sequences: StudentSequences) -> StudentSequences:
    """Return the sequences with each student's open questions as one event, which reads no other.

    Each is asked after all of the student's answers, its time counted from the last one.

    Args:
        interactions: the table, which says which rows lack a response.
        sequences: all of its rows.

    Raises:
        InputError: an answer follows a question without one.
    """
    if interactions.asked is None or not interactions.asked.any():
        return sequences
    asked = interactions.asked.to_numpy()[sequences.row.numpy()]
    start = sequences.start.numpy()
    event = sequences.event.numpy().astype(np.int64)
    student = np.repeat(np.arange(len(start) - 1), np.diff(start))
    last = np.full(len(start) - 1, -1)
    np.maximum.at(last, student[~asked], event[~asked])
    _refuse_answers_after(interactions, sequences, student, asked & (event < last[student]))
    late = asked & (event > last[student])
    seconds = sequences.seconds
    if seconds is not None:
        seconds = torch.from_numpy(_since(seconds.numpy(), event, student, late))
    united = np.where(late, last[student] + 1, event)
    kind = sequences.event.dtype
    return replace(sequences, event=torch.from_numpy(united).to(kind), seconds=seconds)


def _since(
    seconds: npt.NDArray[np.float32],
    event: npt.NDArray[np.int64],
    student: npt.NDArray[np.int64],
    late: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float32]:
    """Return seconds in which late steps count from the student's last answer."""
    opens = np.ones(len(event), dtype=np.bool_)
    opens[1:] = (event[1:] != event[:-1]) | (student[1:] != student[:-1])
    total = np.cumsum(np.where(opens & late, seconds, 0.0))
    first = late.copy()
    first[1:] &= ~late[:-1] | (student[1:] != student[:-1])
    base = np.maximum.accumulate(np.where(first, total - np.where(opens, seconds, 0.0), 0.0))
    return np.where(late, total - base, seconds).astype(np.float32)


def _refuse_answers_after(
    interactions: Interactions,
    sequences: StudentSequences,
    student: npt.NDArray[np.int64],
    early: npt.NDArray[np.bool_],
) -> None:
    """Refuse a question without an answer that answers follow.

    Raises:
        InputError: there is one.
    """
    if not early.any():
        return
    step = int(early.argmax())
    name = interactions.students[int(sequences.student[student[step]])]
    raise InputError(
        f"{interactions.name}: student {name!r} has a row without a {RESPONSE} before rows"
        " with one; accepted are such rows after the student's last answer"
    )
