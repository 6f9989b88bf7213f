"""Forecasts along whole series: a state is carried from patch to patch, no window is read again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from kt_forecast.sequences.series import Forecast, SeriesSet, WindowBatch
from kt_forecast.sequences.stretches import SeriesStreams, Turns, on_rows
from kt_forecast.sequences.windows import Origins
from kt_forecast.tasks.forecasting import SeriesForecaster

Ints = npt.NDArray[np.int64]

STREAMED_STEPS = 512
"""Steps of a segment in which series are streamed, at least a patch."""

VALUES_AHEAD = 4_000_000
"""Values ahead of a segment, of all its patches and outputs: bounds the memory of a pass."""


@runtime_checkable
class StreamingForecaster(Protocol):
    """A predictor that goes along series, keeping a state instead of windows."""

    def streamed(
        self, series: SeriesSet, chosen: Origins, numbers: Ints
    ) -> Iterator[tuple[Ints, Forecast]]:
        """Yield windows by number, each once in any order, with what is predicted for them."""
        ...


@dataclass(frozen=True)
class Streamed:
    """A forecaster along whole series: its windows reach back to the first value of each.

    For every place at which an origin can lie within a patch there is a stream of its own, which
    begins that many steps apart; what it forecasts equals one pass over all rows before an origin.

    Attributes:
        model: forecasts densely, with a system that streams.
        segment: steps of a segment; None for as many as are usual.
    """

    model: SeriesForecaster
    segment: int | None = None

    @property
    def context(self) -> int:
        """Steps of the windows that it was built for."""
        return self.model.context

    def predict(self, batch: WindowBatch) -> Forecast:
        """Return what is predicted for windows, from what they hold alone."""
        return self.model.predict(batch)

    def streamed(
        self, series: SeriesSet, chosen: Origins, numbers: Ints
    ) -> Iterator[tuple[Ints, Forecast]]:
        """Yield windows by number, each once in any order, with what is predicted for them."""
        task = self.model.task
        where = next(self.model.parameters()).device
        streams, wanted = _laid(series, chosen, numbers, patch=task.patch, horizon=task.horizon)
        patches = max(1, (self.segment or STREAMED_STEPS) // task.patch)
        each = task.horizon * task.outputs * self.model.shape.channels
        turns = Turns(
            streams.length,
            patches * task.patch,
            1,
            max(1, VALUES_AHEAD // each) * task.patch,
            shuffle=False,
        )
        state = None
        for rows, first, _ in turns.epoch(0):
            stretch = turns.stretch(rows, first, streams.part(rows, first, turns.block))
            # Not around what is yielded: the caller's mode is its own.
            with torch.inference_mode():
                state = self.model.init_state(len(rows)) if stretch.begins else state
                part = stretch.whole.to(where)
                out, state = self.model.read(part.batch.window, on_rows(state, len(rows)))
                state = on_rows(state, stretch.stays)
                begin = first // task.patch
                number = wanted[rows, begin : begin + out.shape[2]]
                row, origin = np.nonzero(number >= 0)
                found = self.model.forecast(out[row, :, origin]) if len(row) else None
            if found is not None:
                yield number[row, origin], found.to(series.values.device)


def _laid(
    series: SeriesSet, chosen: Origins, numbers: Ints, *, patch: int, horizon: int
) -> tuple[SeriesStreams, Ints]:
    """Return streams whose patches end at the origins of windows, and the window of each patch.

    The window of a patch is -1 where none is asked for.
    """
    which, row = chosen.at(numbers)
    begin = -(-row % patch)
    keys, stream = np.unique(np.stack([which, begin]), axis=1, return_inverse=True)
    stream = stream.ravel()
    length = np.zeros(keys.shape[1], dtype=np.int64)
    np.maximum.at(length, stream, row - begin)
    wanted = np.full((len(length), length.max() // patch), -1)
    wanted[stream, (row - begin) // patch - 1] = numbers
    end = np.diff(series.start.cpu().numpy())
    streams = SeriesStreams(
        series, keys[0], keys[1], length, end[keys[0]], horizon, mixing=chosen.mixing
    )
    return streams, wanted
