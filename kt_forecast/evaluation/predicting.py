"""Windows to forecasts by a predictor that is shown nothing of what came after the origin."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from kt_forecast.evaluation.streaming import StreamingForecaster
from kt_forecast.sequences.series import Forecast, SeriesSet, WindowBatch
from kt_forecast.sequences.windows import WINDOWS_PER_BATCH, Origins, gather

Ints = npt.NDArray[np.int64]

VALUES_PER_BATCH = 4_000_000
"""Values of a batch, contexts and steps ahead of all channels: bounds the memory of a pass."""


@runtime_checkable
class ForecastPredictor(Protocol):
    """Anything that forecasts windows: a trained system, a fitted baseline."""

    @property
    def context(self) -> int:
        """Steps that it looks back on."""
        ...

    def predict(self, batch: WindowBatch) -> Forecast:
        """Return what is predicted for the steps ahead, read from ``batch.window`` alone."""
        ...


@dataclass(frozen=True)
class Predicted:
    """Windows, what was predicted for them and what came.

    Attributes:
        numbers: of the windows.
        series: number of each channel's series.
        target: the values ahead, standardised.
        scored: False where a value ahead is missing; None where none is.
        forecast: what was predicted.
    """

    numbers: Ints
    series: Int[Tensor, "batch channels"]
    target: Float[Tensor, "batch channels horizon"]
    scored: Bool[Tensor, "batch channels horizon"] | None
    forecast: Forecast


def predicted(
    predictor: ForecastPredictor,
    series: SeriesSet,
    chosen: Origins,
    *,
    horizon: int,
    windows_per_batch: int | None = None,
) -> Iterator[Predicted]:
    """Yield all windows, each once, on the device of the series; in their order but for streams.

    Args:
        predictor: a module is moved to that device and, for the time of the pass, put into
            evaluation mode. One that goes along series is shown all their rows, and owes the
            windows in any order.
        series: on the device where to compute.
        chosen: the windows.
        horizon: steps ahead.
        windows_per_batch: windows of a batch; None for as many as bounded memory holds.

    Raises:
        RuntimeError: a forecast has another shape than the values ahead.
    """
    if isinstance(predictor, StreamingForecaster):
        yield from _along(predictor, series, chosen, np.arange(len(chosen)), horizon)
        return
    size = windows_per_batch or fitting(predictor.context + horizon, series, chosen)
    with evaluating(predictor, series.values.device):
        for low in range(0, len(chosen), size):
            numbers = np.arange(low, min(low + size, len(chosen)))
            yield predict(predictor, series, chosen, numbers, horizon=horizon)


@torch.inference_mode()
def predict(
    predictor: ForecastPredictor,
    series: SeriesSet,
    chosen: Origins,
    numbers: Ints,
    *,
    horizon: int,
) -> Predicted:
    """Return some windows with their forecasts; the predictor is in evaluation mode already.

    Raises:
        RuntimeError: a forecast has another shape than the values ahead.
    """
    if isinstance(predictor, StreamingForecaster):
        return _in_order(_along(predictor, series, chosen, numbers, horizon), numbers)
    batch = gather(series, chosen, numbers, context=predictor.context, horizon=horizon)
    target, scored = batch.target.clone(), batch.scored
    forecast = predictor.predict(hidden(batch))
    return _told(numbers, batch.series, target, scored, forecast)


def _along(
    predictor: StreamingForecaster, series: SeriesSet, chosen: Origins, numbers: Ints, horizon: int
) -> Iterator[Predicted]:
    """Yield windows of a predictor that goes along series."""
    for some, forecast in predictor.streamed(series, chosen, numbers):
        batch = gather(series, chosen, some, context=1, horizon=horizon)
        yield _told(some, batch.series, batch.target, batch.scored, forecast)


def _in_order(parts: Iterator[Predicted], numbers: Ints) -> Predicted:
    """Return windows that came in parts as one batch."""
    found = list(parts)
    place = np.argsort(np.concatenate([part.numbers for part in found]))
    order = torch.from_numpy(place[np.argsort(np.argsort(numbers))])

    def joined(tensors: list[Tensor | None]) -> Tensor | None:
        kept = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(kept)[order.to(kept[0].device)] if len(kept) == len(tensors) else None

    quantiles = joined([part.forecast.quantiles for part in found])
    levels = found[0].forecast.levels
    point, target, series = (
        torch.cat(tensors)[order.to(tensors[0].device)]
        for tensors in (
            [part.forecast.point for part in found],
            [part.target for part in found],
            [part.series for part in found],
        )
    )
    scored = joined([part.scored for part in found])
    return Predicted(numbers, series, target, scored, Forecast(point, quantiles, levels))


def _told(
    numbers: Ints, series: Tensor, target: Tensor, scored: Tensor | None, forecast: Forecast
) -> Predicted:
    """Return windows with their forecasts.

    Raises:
        RuntimeError: a forecast has another shape than the values ahead.
    """
    if forecast.point.shape != target.shape:
        raise RuntimeError(
            f"forecasts of shape {tuple(forecast.point.shape)} for values of shape"
            f" {tuple(target.shape)}"
        )
    return Predicted(numbers, series, target, scored, forecast)


def hidden(batch: WindowBatch) -> WindowBatch:
    """Return the batch without what happens after the origin: nan, and marked as not real.

    Covariates known in advance stay. The tensors of ``batch`` itself are written to.
    """
    length = batch.n_context
    batch.values[..., length:] = torch.nan
    batch.past[:, :, length:] = torch.nan
    if batch.real is None:
        return batch
    known = batch.real[..., :length]
    ahead = torch.zeros_like(batch.real[..., length:])
    return replace(batch, real=torch.cat([known, ahead], -1))


def fitting(steps: int, series: SeriesSet, chosen: Origins) -> int:
    """Return how many windows of some steps a batch holds."""
    channels = series.n_series if chosen.mixing else 1
    return max(1, min(WINDOWS_PER_BATCH, VALUES_PER_BATCH // (channels * steps)))


@contextmanager
def evaluating(predictor: object, device: torch.device) -> Iterator[None]:
    """Put a module where and how it predicts, and back into its mode afterwards."""
    if not isinstance(predictor, nn.Module):
        yield
        return
    training = predictor.training
    predictor.to(device).eval()
    try:
        yield
    finally:
        predictor.train(training)
