"""Windows of series, found by number and gathered when they are asked for, never all at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kt_forecast.errors import InputError
from kt_forecast.sequences.series import SeriesSet, WindowBatch

Ints = npt.NDArray[np.int64]

WINDOWS_PER_BATCH = 1024


@dataclass(frozen=True)
class Origins:
    """The windows of one role, by number: which series, and which row is the first step ahead.

    Attributes:
        first: for each series (for all together, where they are mixed), its first row ahead.
        count: its number of windows.
        stride: rows between two windows.
        mixing: whether a window holds all series of an aligned table as its channels.
    """

    first: Ints
    count: Ints
    stride: int = 1
    mixing: bool = False

    def __len__(self) -> int:
        """Return the number of windows."""
        return int(self.count.sum())

    def at(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Return the series of windows (0 where series are mixed) and their first row ahead."""
        ends = np.cumsum(self.count)
        series = np.searchsorted(ends, numbers, side="right")
        before = ends[series] - self.count[series]
        return series, self.first[series] + (numbers - before) * self.stride


def origins(
    series: SeriesSet,
    low: Ints,
    high: Ints,
    *,
    horizon: int,
    least: int = 1,
    stride: int = 1,
    mixing: bool = False,
) -> Origins:
    """Return every window whose steps ahead lie within a span of rows.

    Args:
        series: the series.
        low: for each series, the first row of the span, counted within the series.
        high: for each series, the row after its last one.
        horizon: steps ahead.
        least: rows that must lie before the first step ahead.
        stride: rows between two windows.
        mixing: take all series of an aligned table as channels of one window.

    Raises:
        InputError: series are to be mixed that differ in length or span.
    """
    first = np.maximum(low, least)
    count = np.maximum((high - horizon - first) // stride + 1, 0)
    if mixing:
        start = series.start.cpu().numpy()
        same = (np.diff(start) == start[1]).all() and (series.tick == series.tick[0]).all()
        if not (same and (first == first[0]).all() and (count == count[0]).all()):
            raise InputError(
                "the series differ in their stamps and cannot be channels of one window; accepted"
                " is mixing = false, or a table in which all series have the same stamps"
            )
        first, count = first[:1], count[:1]
    return Origins(first, count, stride, mixing)


def gather(
    series: SeriesSet, chosen: Origins, numbers: Ints, *, context: int, horizon: int
) -> WindowBatch:
    """Return windows by number, on the series' device.

    A window that begins before its series does is padded on the left with the series' first value.
    """
    which, row = chosen.at(numbers)
    channel = np.arange(series.n_series)[None] if chosen.mixing else which[:, None]
    channel = np.broadcast_to(channel, (len(numbers), channel.shape[1]))
    return read_rows(
        series, channel, row - context, context=context, horizon=horizon, numbers=numbers
    )


def read_rows(
    series: SeriesSet,
    channel: Ints,
    begin: Ints,
    *,
    context: int,
    horizon: int,
    numbers: Ints,
    end: Ints | None = None,
) -> WindowBatch:
    """Return stretches of rows of some series, on the series' device.

    Args:
        series: the series.
        channel: the series of each window, as its channels.
        begin: row at which each window begins, counted within its series; before the first row
            stands the series' first value as padding.
        context: rows of a window.
        horizon: rows after it.
        numbers: of the windows.
        end: row of each window from which on there is padding; None where none reaches its own.
    """
    device = series.values.device
    padded = int(begin.min(initial=0)) < 0 or end is not None
    series_of, first = torch.from_numpy(channel.copy()).to(device), torch.from_numpy(begin)
    first = first.to(device)
    steps = first[:, None] + torch.arange(context + horizon, device=device)
    start = series.start[series_of]
    place = start + first[:, None]
    last = None if end is None else torch.from_numpy(end).to(device)[:, None]
    inside = steps >= 0 if last is None else (steps >= 0) & (steps < last)
    there = steps if last is None else steps.minimum(last - 1)
    index = start[:, :, None] + there.clamp_min(0)[:, None] if padded else None

    def read(rows: Tensor) -> Tensor:
        """Return the windows of an array: those within a series are rows of a view of it."""
        if index is not None:
            return rows[index]
        found = rows.unfold(0, context + horizon, 1)[place]
        return found if rows.ndim == 1 else found.mT

    real = None if series.observed is None else read(series.observed)
    if padded:
        inside = inside[:, None].expand(-1, channel.shape[1], -1)
        real = inside if real is None else real & inside
    known = read(series.known)
    if series.clock.shape[1]:
        ticks = series.tick[series_of][:, :, None] + there[:, None]
        known = torch.cat([known, series.clock[ticks.clamp_min(0)]], -1)
    return WindowBatch(
        values=read(series.values),
        real=real,
        past=read(series.past),
        known=known,
        static=series.static[series_of],
        series=series_of,
        place=torch.from_numpy(numbers),
        n_context=context,
    )


def in_order(
    series: SeriesSet,
    chosen: Origins,
    *,
    context: int,
    horizon: int,
    windows_per_batch: int = WINDOWS_PER_BATCH,
) -> Iterator[WindowBatch]:
    """Yield all windows, each once, none dropped."""
    for low in range(0, len(chosen), windows_per_batch):
        numbers = np.arange(low, min(low + windows_per_batch, len(chosen)))
        yield gather(series, chosen, numbers, context=context, horizon=horizon)


class WindowBatches:
    """The batches of each epoch, dealt to the processes of a run.

    Seed and epoch alone decide what a batch holds. An epoch goes through a permutation of the
    windows that is computed where it is needed, so that their number costs no memory.

    Args:
        series: the series, on any device; the batches are made there.
        chosen: the windows.
        context: steps before the origin.
        horizon: steps ahead.
        windows_per_batch: windows of a batch of all processes together.
        windows_per_epoch: windows of an epoch; None for all of them.
        seed: of the orders.

    Raises:
        InputError: there is no window.
    """

    def __init__(
        self,
        series: SeriesSet,
        chosen: Origins,
        *,
        context: int,
        horizon: int,
        windows_per_batch: int,
        windows_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        if not len(chosen):
            raise InputError(
                f"no window of {context} steps and {horizon} ahead lies within the training rows;"
                " accepted are longer series, or a shorter context or horizon"
            )
        self.series = series
        self.chosen = chosen
        self.context = context
        self.horizon = horizon
        self.size = windows_per_batch
        self.count = min(windows_per_epoch or len(chosen), len(chosen))
        self.seed = seed

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return max(-(-self.count // self.size), 1)

    def epoch(
        self, number: int, *, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[WindowBatch]:
        """Yield this process's windows of batch ``start`` of an epoch and of those after it."""
        order = Permutation(len(self.chosen), seed=(self.seed << 20) + number)
        for batch in range(start, len(self)):
            places = np.arange(batch * self.size, min((batch + 1) * self.size, self.count))
            # A process without a window takes one that another has too, so that all take part.
            own = places[rank::world] if len(places) > rank else places[:1]
            numbers = order(own)
            yield gather(
                self.series, self.chosen, numbers, context=self.context, horizon=self.horizon
            )


class Permutation:
    """A random permutation of ``0 .. n - 1``, computed for the places that are asked for.

    A Feistel network over the next even power of two, walked until the result is below n: it is a
    bijection whatever its round function is.

    Args:
        n: how many numbers.
        seed: which permutation.
    """

    ROUNDS = 6

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.half = max(1, -(-max(n - 1, 1).bit_length() // 2))
        keys = np.random.default_rng(seed).integers(1 << 32, size=self.ROUNDS, dtype=np.uint64)
        self.keys: list[np.uint64] = list(keys)

    def __call__(self, places: Ints) -> Ints:
        """Return the numbers at some places."""
        found = self._mixed(places.astype(np.uint64))
        outside = found >= self.n
        while outside.any():
            found[outside] = self._mixed(found[outside])
            outside = found >= self.n
        return found.astype(np.int64)

    def _mixed(self, x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        mask, shift = np.uint64((1 << self.half) - 1), np.uint64(self.half)
        left, right = x >> shift, x & mask
        for key in self.keys:
            scrambled = (right + key) * np.uint64(0x9E3779B97F4A7C15)
            scrambled ^= scrambled >> np.uint64(29)
            scrambled *= np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((scrambled >> np.uint64(32)) & mask)
        return (left << shift) | right
