"""Students' sequences to padded batches: planned once, gathered lazily, little of it padding.

A batch is a set of *pieces*, stretches of consecutive steps of one student. Whole histories,
chunks for training and windows for evaluation differ only in which pieces they plan; the steps
themselves are never copied before a batch is asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from kt_forecast.errors import InputError
from kt_forecast.sequences.interactions import Batch, StudentSequences

Ints = npt.NDArray[np.int64]

STEPS_PER_BATCH = 16_384
MOST_PADDING = 0.1
"""Share of padding that the batches of an epoch together do not exceed."""

_PLANNED_PADDING = 0.05
"""Share of padding that a batch may have before lengths are shaken."""

_SHAKE = 0.05
"""How far, as a logarithm, lengths are shaken before each epoch's sort, so that pieces of nearly
one length meet different ones every time; training on batches that never change is worse."""


@dataclass(frozen=True)
class Pieces:
    """Stretches of consecutive steps, each within one student.

    Attributes:
        start: place of the first step.
        length: steps.
        scored_from: steps at the beginning that are history only.
    """

    start: Ints
    length: Ints
    scored_from: Ints

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.start)

    def take(self, chosen: Ints | npt.NDArray[np.bool_]) -> "Pieces":
        """Return some of the pieces."""
        return Pieces(self.start[chosen], self.length[chosen], self.scored_from[chosen])


def chunks(sequences: StudentSequences, history: int | None) -> Pieces:
    """Return whole histories, or cut them into pieces of ``history`` steps that do not overlap."""
    begin, end = _bounds(sequences)
    steps = end - begin
    width = int(steps.max(initial=1)) if history is None else history
    n_chunks = -(-steps // width)
    nth = _count_up(n_chunks)
    start = np.repeat(begin, n_chunks) + nth * width
    length = np.minimum(width, np.repeat(end, n_chunks) - start)
    return _with_scored(sequences, Pieces(start, length, np.zeros_like(start)))


def sliding(
    sequences: StudentSequences, history: int, unit: Literal["steps", "rows"] = "steps"
) -> Pieces:
    """Return pieces in which every scored step counts exactly once.

    The first steps of a student that fit into ``history`` go in one piece; every later scored
    step is the last step of a piece of its own.

    Args:
        sequences: the students.
        history: the longest piece, its target included.
        unit: what ``history`` counts: steps, or concept rows (a step of k concepts counts k, of
            none 1), as protocols that repeat a row for each concept do. A step longer than
            ``history`` stands alone.
    """
    begin, end = _bounds(sequences)
    place = np.arange(sequences.n_steps)
    if unit == "steps":
        earliest = place - history + 1
    else:
        sizes = np.maximum(1, np.diff(sequences.concept_start.numpy()))
        rows = np.concatenate([[0], np.cumsum(sizes)])
        earliest = np.searchsorted(rows, rows[1:] - history, side="left")
    earliest = np.minimum(np.maximum(earliest, np.repeat(begin, end - begin)), place)
    inside = earliest == np.repeat(begin, end - begin)
    # A first step wider than the history is both inside and alone; nothing after it is inside.
    n_inside = np.add.reduceat(inside, begin) if len(begin) else begin
    head = Pieces(begin, n_inside.astype(np.int64), np.zeros_like(begin))
    later = np.flatnonzero(~inside & sequences.scored.numpy())
    length = later - earliest[later] + 1
    tail = Pieces(earliest[later], length, length - 1)
    head = _with_scored(sequences, head)
    return Pieces(
        np.concatenate([head.start, tail.start]),
        np.concatenate([head.length, tail.length]),
        np.concatenate([head.scored_from, tail.scored_from]),
    )


class Batches:
    """The batches of each epoch, dealt to the processes of a run.

    Seed and epoch alone decide what a batch holds: not the number of processes, and not where a
    run was interrupted. Iterating gives the first epoch.

    Args:
        sequences: the students.
        pieces: what to batch; by default whole histories, or chunks of ``history`` steps.
        history: longest piece in steps; None for whole histories.
        steps_per_batch: steps of a batch, padding counted; a longer piece stands alone.
        batch_size: most pieces of a batch.
        shuffle: give the batches, and pieces of like length, in a new order each epoch.
        seed: of the orders.

    Raises:
        InputError: a size is not positive.
    """

    def __init__(
        self,
        sequences: StudentSequences,
        *,
        pieces: Pieces | None = None,
        history: int | None = None,
        steps_per_batch: int = STEPS_PER_BATCH,
        batch_size: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        for name, value in (
            ("history", history),
            ("steps_per_batch", steps_per_batch),
            ("batch_size", batch_size),
        ):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; accepted are whole numbers from 1")
        self.sequences = sequences
        self.pieces = chunks(sequences, history) if pieces is None else pieces
        self.shuffle, self.seed = shuffle, seed
        self._bounds = _plan(self.pieces.length, steps_per_batch, batch_size, shaken=shuffle)

    def __len__(self) -> int:
        """Return the batches of an epoch, the same for all epochs and processes."""
        return len(self._bounds)

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches of the first epoch."""
        return self.epoch(0)

    def epoch(
        self, number: int, *, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Give one process's share of batch ``start`` of an epoch and of those after it.

        A process whose share of a batch is empty gets a piece of it in which nothing is scored,
        so that all processes take the same number of turns.
        """
        order = self._order(number)
        for turn in self._turns(number)[start:]:
            low, high = self._bounds[turn]
            share = self.pieces.take(order[low:high][rank::world])
            if not len(share):
                share = self.pieces.take(order[high - 1 : high])
                share = Pieces(share.start, share.length, share.length)
            yield collate(self.sequences, share)

    @property
    def padding_share(self) -> float:
        """Return the share of padding in all batches of the first epoch."""
        lengths = self.pieces.length[self._order(0)]
        if not len(lengths):
            return 0.0
        low, high = self._bounds[:, 0], self._bounds[:, 1]
        widest = np.maximum.reduceat(lengths, low)
        return float(1.0 - lengths.sum() / (widest * (high - low)).sum())

    def _order(self, epoch: int) -> Ints:
        """Return the pieces, longest first by lengths shaken anew for each epoch."""
        size = np.log(np.maximum(self.pieces.length, 1))
        if self.shuffle:
            size = size + self._draw(epoch, 0).uniform(-_SHAKE, _SHAKE, len(size))
        return np.argsort(-size, kind="stable")

    def _turns(self, epoch: int) -> Ints:
        turns = np.arange(len(self._bounds))
        return self._draw(epoch, 1).permutation(turns) if self.shuffle else turns

    def _draw(self, epoch: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, purpose))


def windows(
    sequences: StudentSequences,
    history: int | None,
    unit: Literal["steps", "rows"] = "steps",
    *,
    steps_per_batch: int = STEPS_PER_BATCH,
    batch_size: int | None = None,
) -> Batches:
    """Return the batches of an evaluation: every scored step is predicted exactly once.

    Args:
        sequences: the students.
        history: the most a prediction may look back on, its own step included; None for all.
        unit: what ``history`` counts; see `sliding`.
        steps_per_batch: steps of a batch, padding counted.
        batch_size: most pieces of a batch.
    """
    return Batches(
        sequences,
        pieces=chunks(sequences, None) if history is None else sliding(sequences, history, unit),
        steps_per_batch=steps_per_batch,
        batch_size=batch_size,
        shuffle=False,
    )


def collate(sequences: StudentSequences, pieces: Pieces) -> Batch:
    """Gather pieces into one batch, padded on the right."""
    start = torch.from_numpy(pieces.start)[:, None]
    length = torch.from_numpy(pieces.length)[:, None]
    offset = torch.arange(int(pieces.length.max(initial=0)))[None]
    real = offset < length
    past_end = (offset - length + 1).clamp(min=0)
    place = start + offset - past_end
    counts = sequences.scored[place] & real
    counts &= offset >= torch.from_numpy(pieces.scored_from)[:, None]
    # Events rise strictly through the padding, so that it shares none with a step.
    event = (sequences.event[place] + past_end).long()
    seconds = sequences.seconds
    return Batch(
        question=_fill(sequences.question, place, real),
        concepts=_concepts(sequences, place, real),
        response=_fill(sequences.response, place, real),
        event=event,
        seconds=torch.zeros(place.shape)
        if seconds is None
        else torch.where(real, seconds[place], 0.0),
        extras=torch.where(real[..., None], sequences.extras[place], 0.0),
        real=real,
        scored=counts,
        place=torch.where(real, place, -1),
        bundles=bool((event.diff(dim=1) == 0).any()),
        own=None
        if sequences.own is None
        else torch.where(real[..., None], sequences.own[place], 0.0),
    )


def _fill(values: Int[Tensor, " steps"], place: Tensor, real: Tensor) -> Tensor:
    return torch.where(real, values[place], 0).long()


def _concepts(sequences: StudentSequences, place: Tensor, real: Tensor) -> Tensor:
    """Gather concept sets; the widest set of the batch gives the width, at least one."""
    begin = sequences.concept_start[place]
    size = torch.where(real, sequences.concept_start[place + 1] - begin, 0)
    slot = torch.arange(max(1, int(size.max()) if size.numel() else 1))
    used = slot < size[..., None]
    if not len(sequences.concept):
        return torch.zeros(used.shape, dtype=torch.int64)
    index = torch.where(used, begin[..., None] + slot, 0)
    return torch.where(used, sequences.concept[index], 0).long()


def _bounds(sequences: StudentSequences) -> tuple[Ints, Ints]:
    start = sequences.start.numpy()
    return start[:-1], start[1:]


def _count_up(counts: Ints) -> Ints:
    """Return 0 .. count - 1 for each count, laid end to end."""
    first = np.concatenate([[0], np.cumsum(counts)])[:-1]
    return np.arange(int(counts.sum())) - np.repeat(first, counts)


def _with_scored(sequences: StudentSequences, pieces: Pieces) -> Pieces:
    """Drop pieces in which nothing is scored."""
    total = np.concatenate([[0], np.cumsum(sequences.scored.numpy())])
    return pieces.take(total[pieces.start + pieces.length] > total[pieces.start])


def _plan(lengths: Ints, steps_per_batch: int, batch_size: int | None, *, shaken: bool) -> Ints:
    """Cut the pieces, longest first, into batches.

    Shaken by ``_SHAKE``, the piece at a place of the order is at most twice that, as a logarithm,
    longer than the piece that belongs there: batches leave room for it.

    Returns:
        First place and one past the last of each batch in the order of falling lengths.
    """
    ordered = np.sort(lengths)[::-1]
    room = np.exp(2 * _SHAKE) if shaken else 1.0
    widest = np.minimum(np.floor(ordered * room + 1e-9), ordered.max(initial=1)).astype(np.int64)
    total = np.concatenate([[0], np.cumsum(ordered)])
    bounds = []
    low = 0
    while low < len(ordered):
        most = max(1, steps_per_batch // max(1, int(widest[low])))
        most = min(most, batch_size or most, len(ordered) - low)
        filled = total[low + 1 : low + most + 1] - total[low]
        width = int(ordered[low])
        wide_enough = filled >= (1.0 - _PLANNED_PADDING) * width * np.arange(1, most + 1)
        high = low + (most if wide_enough.all() else int(wide_enough.argmin()))
        high = max(high, low + 1)
        bounds.append((low, high))
        low = high
    return np.array(bounds, dtype=np.int64).reshape(-1, 2)
