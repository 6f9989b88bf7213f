"""The mean of several members' forecasts (Bates and Granger 1969; Lakshminarayanan et al. 2017)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kt_forecast.sequences.series import Forecast, WindowBatch


@dataclass(frozen=True)
class Steady:
    """A model that predicts where its weights are, whatever the device of the windows.

    Attributes:
        model: a network in evaluation mode, or a fitted baseline.
    """

    model: Any

    @property
    def context(self) -> int:
        """Steps that it looks back on."""
        return int(self.model.context)

    @torch.inference_mode()
    def predict(self, batch: WindowBatch) -> Forecast:
        """Return what is predicted for the steps ahead, on the device of the windows."""
        return predicted_by(self.model, batch)


@dataclass(frozen=True)
class Ensemble:
    """Members that were trained each by itself; all count alike.

    Equal weights: estimated ones are rarely better, since they fit the validation rows (Stock and
    Watson 2004).

    Attributes:
        models: networks in evaluation mode and fitted baselines, at least one.
    """

    models: tuple[Any, ...]

    @property
    def context(self) -> int:
        """Steps that a forecast looks back on: those of the member that reads most."""
        return max(int(model.context) for model in self.models)

    def predict(self, batch: WindowBatch) -> Forecast:
        """Return the mean forecast; it has no quantiles of its own."""
        points = [predicted_by(model, batch).point for model in self.models]
        return Forecast(torch.stack(points).mean(0))


def predicted_by(model: Any, batch: WindowBatch) -> Forecast:  # noqa: ANN401
    """Return what a model predicts, computed where its weights are, on the windows' device."""
    if not isinstance(model, nn.Module):
        found: Forecast = model.predict(batch)
        return found
    here, there = batch.values.device, next(model.parameters()).device
    if here == there:
        return model.predict(batch)  # type: ignore[operator]
    found = model.predict(batch.to(there))  # type: ignore[operator]
    quantiles = None if found.quantiles is None else found.quantiles.to(here)
    return Forecast(found.point.to(here), quantiles, found.levels)


def models_of(model: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Return the members of an ensemble, or the one model."""
    return model.models if isinstance(model, Ensemble) else (model,)


def networks_of(model: Any) -> Iterator[nn.Module]:  # noqa: ANN401
    """Yield the members that are networks."""
    yield from (one for one in models_of(model) if isinstance(one, nn.Module))
