"""Streams side by side, a few segments at a time: what truncated back-propagation is fed.

Each row of a *stretch* is the next part of one stream: of one student's history, of one series.
Streams of a group begin together, and the stretches of a group follow each other, so that what a
model carried out of one belongs to the rows of the next. Rows that have ended are dropped: within
a stretch after the segment that ends them, longest first, and so without padding for them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool
from torch import Tensor

from kt_forecast.errors import InputError
from kt_forecast.sequences.batching import STEPS_PER_BATCH, Pieces, chunks, collate
from kt_forecast.sequences.interactions import Batch, StudentSequences
from kt_forecast.sequences.series import SeriesSet, WindowBatch
from kt_forecast.sequences.windows import read_rows

Ints = npt.NDArray[np.int64]

_PLANNED_PADDING = 0.05
"""Share of padding that the stretches of a group may have before lengths are shaken."""

_PLANNED_FILL = 0.5
"""Least share of a group's rows that still go on in its stretches, on average: the rest of their
places stays empty, and updates of few rows learn little."""

_SHAKE = 0.05
"""How far, as a logarithm, lengths are shaken before each epoch's sort among streams that take as
many stretches."""


@runtime_checkable
class Cut(Protocol):
    """Rows of steps, padded on the right, of which parts can be taken."""

    @property
    def place(self) -> Tensor:
        """Where each step came from; negative at padding."""
        ...

    def part(self, rows: int, start: int, stop: int) -> Self:
        """Return the first rows, from one step up to and without another."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Return the rows on ``device``."""
        ...


@dataclass(frozen=True)
class Stretch:
    """The next segments of some streams, longest first.

    Attributes:
        whole: their steps.
        segment: steps of a segment.
        lengths: steps that each row has here, never rising.
        begins: whether the streams begin here; else the rows are the first of those that stayed.
        stays: rows that go on in the next stretch.
    """

    whole: Any
    segment: int
    lengths: tuple[int, ...]
    begins: bool
    stays: int

    @property
    def place(self) -> Tensor:
        """Where each step came from; negative at padding."""
        return self.whole.place

    @property
    def alone(self) -> bool:
        """Whether these are whole histories within one segment: nothing is carried of them."""
        ends = not self.stays and self.lengths[0] <= self.segment
        return self.begins and ends and isinstance(self.whole, Batch)

    def segments(self) -> Iterator[tuple[int, Any]]:
        """Give, segment by segment, how many rows go on, and their steps."""
        lengths = np.array(self.lengths)
        for start in range(0, self.lengths[0], self.segment):
            stop = min(start + self.segment, self.lengths[0])
            rows = int((lengths > start).sum())
            yield rows, self.whole.part(rows, start, stop)

    def to(self, device: torch.device | str) -> Self:
        """Return the stretch on ``device``."""
        return replace(self, whole=self.whole.to(device))


@dataclass(frozen=True)
class Turns:
    """Which streams go together, and in which order their stretches come.

    Seed and epoch alone decide it, and the number of stretches is the same in all epochs.

    Attributes:
        length: steps of each stream.
        segment: steps of a segment.
        carried: segments of a stretch.
        steps: steps of a stretch of all processes together, padding counted.
        rows: most streams of a stretch.
        shuffle: give groups, and streams of like length, in a new order each epoch.
        seed: of the orders.
    """

    length: Ints
    segment: int
    carried: int
    steps: int
    rows: int | None = None
    shuffle: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("segment", "carried", "steps", "rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; accepted are whole numbers from 1")

    @property
    def block(self) -> int:
        """Steps of each stream in a stretch."""
        return self.segment * self.carried

    @cached_property
    def bounds(self) -> Ints:
        """Place of each group's first stream in the order of an epoch, and one past its last."""
        return self._planned()

    @cached_property
    def count(self) -> Ints:
        """Stretches of each group."""
        longest = np.sort(self.length)[::-1][self.bounds[:, 0]]
        return -(-longest // self.block)

    def __len__(self) -> int:
        """Return the stretches of an epoch."""
        return int(self.count.sum())

    def epoch(
        self, number: int, *, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Ints, int, bool]]:
        """Give one process's streams of stretch ``start`` and of those after it.

        Yields:
            Streams, longest first, the place of their first step here, and whether a stretch that
            counts for nothing stands in for an empty share, so that all processes take part.
        """
        order = self._order(number)
        groups = np.arange(len(self.bounds))
        if self.shuffle:
            groups = self._draw(number, 1).permutation(groups)
        ends = np.cumsum(self.count[groups])
        for turn in range(start, len(self)):
            place = int(np.searchsorted(ends, turn, side="right"))
            group = groups[place]
            low, high = self.bounds[group]
            first = (turn - int(ends[place] - self.count[group])) * self.block
            streams = order[low:high]
            streams = streams[np.argsort(-self.length[streams], kind="stable")]
            share = streams[rank::world]
            share = share[self.length[share] > first]
            yield (share, first, False) if len(share) else (streams[:1], 0, True)

    def stretch(self, streams: Ints, first: int, whole: Cut) -> Stretch:
        """Return the stretch that holds the steps of some streams from a place on."""
        left = self.length[streams] - first
        lengths = tuple(np.minimum(left, self.block).tolist())
        stays = int((left > self.block).sum())
        return Stretch(whole, self.segment, lengths, begins=first == 0, stays=stays)

    def _order(self, epoch: int) -> Ints:
        """Return the streams by falling number of stretches, then by shaken length."""
        size = np.log(np.maximum(self.length, 1))
        if self.shuffle:
            size = size + self._draw(epoch, 0).uniform(-_SHAKE, _SHAKE, len(size))
        return np.lexsort((-size, self.length // -self.block))

    def _draw(self, epoch: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, purpose))

    def _planned(self) -> Ints:
        """Cut the streams, longest first, into groups."""
        ordered = np.sort(self.length)[::-1]
        full = -(-ordered // self.segment) * self.segment
        room = np.exp(2 * _SHAKE) if self.shuffle else 1.0
        bounds = []
        low = 0
        while low < len(ordered):
            longest = int(ordered[low])
            widest = min(int(longest * room + 1e-9), self.block)
            most = min(max(1, self.steps // max(1, widest)), len(ordered) - low)
            most = min(most, self.rows or most)
            some = slice(low, low + most)
            filled = ordered[some].cumsum()
            there = np.minimum(full[some], longest).cumsum()
            fits = filled >= (1.0 - _PLANNED_PADDING) * there
            fits &= filled >= _PLANNED_FILL * longest * np.arange(1, most + 1)
            high = max(low + 1, low + (most if fits.all() else int(fits.argmin())))
            bounds.append((low, high))
            low = high
        return np.array(bounds, dtype=np.int64).reshape(-1, 2)


class Stretches:
    """The stretches of students' histories in each epoch, dealt to the processes of a run.

    Args:
        sequences: the students.
        segment: steps of a segment.
        carried: segments of a stretch.
        history: longest stream in steps; None for whole histories.
        steps_per_batch: steps of a stretch, padding counted.
        rows: most streams of a stretch.
        shuffle: give groups, and streams of like length, in a new order each epoch.
        seed: of the orders.

    Raises:
        InputError: a size is not positive.
    """

    def __init__(
        self,
        sequences: StudentSequences,
        *,
        segment: int,
        carried: int = 1,
        history: int | None = None,
        steps_per_batch: int = STEPS_PER_BATCH,
        rows: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        self.sequences = sequences
        self.pieces = chunks(sequences, history)
        self.turns = Turns(
            self.pieces.length,
            segment=segment,
            carried=carried,
            steps=steps_per_batch,
            rows=rows,
            shuffle=shuffle,
            seed=seed,
        )

    def __len__(self) -> int:
        """Return the stretches of an epoch."""
        return len(self.turns)

    def __iter__(self) -> Iterator[Stretch]:
        """Give the stretches of the first epoch."""
        return self.epoch(0)

    def epoch(
        self, number: int, *, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Stretch]:
        """Give one process's share of stretch ``start`` of an epoch and of those after it."""
        turns = self.turns
        for streams, first, idle in turns.epoch(number, start=start, rank=rank, world=world):
            pieces = self.pieces.take(streams)
            length = np.minimum(pieces.length - first, turns.block)
            unscored = length if idle else np.clip(pieces.scored_from - first, 0, length)
            whole = collate(self.sequences, Pieces(pieces.start + first, length, unscored))
            stretch = turns.stretch(streams, first, whole)
            yield replace(stretch, stays=0) if idle else stretch


@dataclass(frozen=True)
class SeriesPart:
    """Parts of several series side by side, with the steps ahead of each.

    Attributes:
        batch: the parts as contexts, and what follows them.
        inside: whether a step of a context belongs to its stream; padding stands on the right.
    """

    batch: WindowBatch
    inside: Bool[Tensor, "batch context"]

    @property
    def place(self) -> Tensor:
        """Number of each stream."""
        return self.batch.place

    def part(self, rows: int, start: int, stop: int) -> Self:
        """Return the first rows, from one step up to and without another."""
        batch = self.batch
        both = stop + batch.values.shape[-1] - batch.n_context
        part = replace(
            batch,
            values=batch.values[:rows, :, start:both],
            real=None if batch.real is None else batch.real[:rows, :, start:both],
            past=batch.past[:rows, :, start:both],
            known=batch.known[:rows, :, start:both],
            static=batch.static[:rows],
            series=batch.series[:rows],
            place=batch.place[:rows],
            n_context=stop - start,
        )
        return type(self)(part, self.inside[:rows, start:stop])

    def to(self, device: torch.device | str) -> Self:
        """Return the part on ``device``."""
        return type(self)(self.batch.to(device), self.inside.to(device))


@dataclass(frozen=True)
class SeriesStreams:
    """Streams along series: whole patches, one after another.

    Attributes:
        series: the series.
        number: of the series of each stream; of streams of all series together, any.
        begin: row at which each stream begins; above minus one patch, so that a stream which
            begins before its series is padded on the left within its first patch.
        length: steps of each stream.
        end: row of each stream from which on nothing may be read.
        horizon: steps ahead of each patch.
        mixing: whether a stream holds all series of an aligned table as its channels.
    """

    series: SeriesSet
    number: Ints
    begin: Ints
    length: Ints
    end: Ints
    horizon: int
    mixing: bool = False

    def part(self, streams: Ints, first: int, steps: int) -> SeriesPart:
        """Return the next steps of some streams, as many as the longest has left at most."""
        left = np.minimum(self.length[streams] - first, steps)
        context = int(left.max())
        number = self.number[streams]
        channel = np.arange(self.series.n_series)[None] if self.mixing else number[:, None]
        begin, end = self.begin[streams] + first, self.end[streams]
        reaches = (begin + context + self.horizon > end).any()
        batch = read_rows(
            self.series,
            np.broadcast_to(channel, (len(streams), channel.shape[1])),
            begin,
            context=context,
            horizon=self.horizon,
            numbers=streams,
            end=end if reaches else None,
        )
        device = batch.values.device
        inside = torch.arange(context, device=device) < torch.from_numpy(left).to(device)[:, None]
        return SeriesPart(batch, inside)


def along(series: SeriesSet, end: Ints, *, patch: int, horizon: int, mixing: bool) -> SeriesStreams:
    """Return the streams of whole series, without those too short for a patch and what is ahead.

    Args:
        series: on any device; their parts are made there.
        end: row of each series from which on nothing may be read.
        patch: steps of a patch.
        horizon: steps ahead.
        mixing: take all series of an aligned table as channels of one stream.

    Raises:
        InputError: no series is long enough.
    """
    end = end.min(keepdims=True) if mixing else end
    length = (end - horizon) // patch * patch
    long = np.flatnonzero(length > 0)
    if not len(long):
        raise InputError(
            f"no series has a patch of {patch} steps and {horizon} ahead within the training rows;"
            " accepted are longer series, or a shorter patch or horizon"
        )
    none = np.zeros_like(long)
    return SeriesStreams(series, long, none, length[long], end[long], horizon, mixing)


class SeriesStretches:
    """The stretches of whole series in each epoch, dealt to the processes of a run.

    Each epoch the patches of a series begin at another of its first rows.

    Args:
        streams: see `along`.
        patch: steps of a patch; divides ``segment``.
        segment: steps of a segment.
        carried: segments of a stretch.
        steps: steps of a stretch, padding counted.
        seed: of the orders.

    Raises:
        InputError: a size is not positive.
    """

    def __init__(
        self,
        streams: SeriesStreams,
        *,
        patch: int,
        segment: int,
        carried: int,
        steps: int,
        seed: int = 0,
    ) -> None:
        self.streams, self.patch, self.seed = streams, patch, seed
        self.turns = Turns(streams.length, segment, carried, steps, seed=seed)

    def __len__(self) -> int:
        """Return the stretches of an epoch."""
        return len(self.turns)

    def epoch(
        self, number: int, *, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Stretch]:
        """Give one process's share of stretch ``start`` of an epoch and of those after it."""
        draw = np.random.default_rng((self.seed, number, 2))
        begin = -draw.integers(self.patch, size=len(self.streams.begin))
        streams, turns = replace(self.streams, begin=begin), self.turns
        for share, first, idle in turns.epoch(number, start=start, rank=rank, world=world):
            part = streams.part(share, first, turns.block)
            if idle:
                part = replace(part, inside=torch.zeros_like(part.inside))
            stretch = turns.stretch(share, first, part)
            yield replace(stretch, stays=0) if idle else stretch


def on_rows(state: Any, rows: int, change: Callable[[Tensor], Tensor] | None = None) -> Any:  # noqa: ANN401
    """Return what was carried for the first rows alone, and changed."""
    return state.map(lambda tensor: tensor[:rows] if change is None else change(tensor[:rows]))
