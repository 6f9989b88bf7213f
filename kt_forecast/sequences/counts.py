"""What a step may look back on, and sums over it: the arrays behind every fitted baseline."""

from typing import Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from kt_forecast.sequences.interactions import StudentSequences

Ints = npt.NDArray[np.int64]


def looked_back(
    sequences: StudentSequences,
    history: int | None = None,
    unit: Literal["steps", "rows"] = "steps",
) -> tuple[Ints, Ints]:
    """Return, of each step, the first place it may look back on and one past the last.

    Steps of the step's own event, and of a bundle it belongs to, are past the last.

    Args:
        sequences: the students.
        history: the most a prediction may look back on, its own step included; None for all.
        unit: what ``history`` counts: steps, or concept rows (a step of k concepts counts k, of
            none 1); the same windows as `kt_forecast.sequences.batching.sliding`.
    """
    start = sequences.start.numpy().astype(np.int64)
    place = np.arange(sequences.n_steps)
    begin = np.repeat(start[:-1], np.diff(start))
    event = sequences.event.numpy()
    opens = place == begin
    opens[1:] |= event[1:] != event[:-1]
    stop = np.maximum.accumulate(np.where(opens, place, 0)) if len(place) else place
    if history is None:
        return begin, stop
    if unit == "steps":
        first = place - history + 1
    else:
        sizes = np.maximum(1, np.diff(sequences.concept_start.numpy()))
        rows = np.concatenate([[0], np.cumsum(sizes)])
        first = np.searchsorted(rows, rows[1:] - history, side="left")
    return np.minimum(np.maximum(first, begin), stop), stop


def sums_between(
    key: Int[np.ndarray, " entries"],
    place: Int[np.ndarray, " entries"],
    amount: Float[np.ndarray, "entries sorts"],
    first: Int[np.ndarray, " entries"],
    stop: Int[np.ndarray, " entries"],
    *,
    last: int | None = None,
) -> Float[np.ndarray, "entries sorts"]:
    """Return, of each entry, the sum of ``amount`` over entries of its key in its range of places.

    Sorting makes the cost ``n log n``; the sums of whole numbers are exact.

    Args:
        key: what is counted, for instance a concept index.
        place: step the entry belongs to, counted over all students.
        amount: numbers to sum, several sorts side by side.
        first: first place that counts.
        stop: one past the last place that counts.
        last: count only so many of them, the latest; None for all.
    """
    order, low, high = ranges_of_key(key, place, first, stop)
    if last is not None:
        low = np.maximum(low, high - last)
    before = np.zeros((len(key) + 1, amount.shape[1]))
    np.cumsum(amount[order], axis=0, out=before[1:])
    return before[high] - before[low]


def ranges_of_key(
    key: Int[np.ndarray, " entries"],
    place: Int[np.ndarray, " entries"],
    first: Int[np.ndarray, " entries"],
    stop: Int[np.ndarray, " entries"],
) -> tuple[Ints, Ints, Ints]:
    """Return the order by key and place and, of each entry, where its range lies in that order."""
    steps = int(place.max(initial=0)) + 2
    base = key.astype(np.int64) * steps
    joint = base + place
    order = np.argsort(joint, kind="stable")
    ranked = joint[order]
    return order, np.searchsorted(ranked, base + first), np.searchsorted(ranked, base + stop)


def concept_entries(
    sequences: StudentSequences, *, empty: bool = False
) -> tuple[Ints, npt.NDArray[np.int64]]:
    """Return the step and the concept of every member of every concept set.

    Args:
        sequences: the students.
        empty: give a step without concepts the unknown concept 0, so that no step is left out.
    """
    size = np.diff(sequences.concept_start.numpy())
    step = np.repeat(np.arange(len(size)), size)
    concept = sequences.concept.numpy().astype(np.int64)
    if not empty:
        return step, concept
    bare = np.flatnonzero(size == 0)
    step = np.concatenate([step, bare])
    order = np.argsort(step, kind="stable")
    return step[order], np.concatenate([concept, np.zeros_like(bare)])[order]


def mean_of_entries(
    step: Int[np.ndarray, " entries"],
    values: Float[np.ndarray, " entries"],
    otherwise: float,
    n_steps: int,
) -> Float[np.ndarray, " steps"]:
    """Return the mean of each step's entries, ``otherwise`` for a step without any."""
    n_entries = np.bincount(step, minlength=n_steps)
    total = np.bincount(step, weights=values, minlength=n_steps)
    return np.where(n_entries > 0, total / np.maximum(n_entries, 1), otherwise)
