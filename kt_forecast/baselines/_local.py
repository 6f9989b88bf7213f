"""Models of one series at a time, fitted anew to the context of every window."""

import warnings
from types import ModuleType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from kt_forecast.baselines._rules import Rule, RuleConfig, begun
from kt_forecast.errors import InputError
from kt_forecast.sequences.series import SeriesSet, Window, WindowShape
from kt_forecast.sequences.windows import Origins

LEAST_VALUES = 12
"""A series with fewer values has its last one repeated."""


class LocalConfig(RuleConfig):
    """Settings of a `Local` model.

    Attributes:
        context: steps before the origin that it reads; None for as many as the systems beside it.
        season: steps of the cycle; None for that of the series.
    """

    season: PositiveInt | None = None


class Local(Rule):
    """A model of statsforecast that takes each context for a whole series.

    Each window costs a search for parameters, which takes from a hundredth of a second to several:
    it is meant for forecasts from the ends of series, and any number of windows may be asked for.

    Subclasses say which model is `made`.
    """

    config: LocalConfig
    MOST_SEASON: int | None = None
    """Longest season that the model can hold; a longer one is left out."""

    def fit(
        self, series: SeriesSet, train: Origins, valid: Origins | None, shape: WindowShape
    ) -> Self:
        """Take the sizes of the windows; no value is read.

        Raises:
            InputError: statsforecast is not installed.
        """
        library()
        return super().fit(series, train, valid, shape)

    def ahead(self, window: Window) -> Float[Tensor, "batch channels horizon"]:
        """Return each fitted model's forecast.

        Raises:
            InputError: statsforecast is not installed.
        """
        models = library()
        context = window.context[..., -self.context :]
        seen = torch.ones_like(context, dtype=torch.bool)
        if window.real is not None:
            seen = begun(window.real[..., -self.context :])
        rows = zip(_rows(context), _rows(seen), strict=True)
        found = np.stack([self._of_one(models, values[real]) for values, real in rows])
        return torch.from_numpy(found).to(context).unflatten(0, context.shape[:2])

    def made(self, models: ModuleType, season: int) -> Any:  # noqa: ANN401
        """Return an unfitted model.

        Args:
            models: ``statsforecast.models``.
            season: steps of the cycle; 1 for none.
        """
        raise NotImplementedError

    def _of_one(
        self, models: ModuleType, values: Float[np.ndarray, " steps"]
    ) -> Float[np.ndarray, " horizon"]:
        """Return the forecast of one series; of a constant or very short one, its last value."""
        season = self.config.season or self.season
        holds = self.MOST_SEASON is None or season <= self.MOST_SEASON
        if not holds or len(values) < 2 * season + LEAST_VALUES:
            season = 1
        if len(values) < LEAST_VALUES or np.ptp(values) == 0.0:
            last = values[-1] if len(values) else 0.0
            return np.full(self.horizon, last)
        with warnings.catch_warnings():
            # What the library's search runs into on its way is not the user's affair.
            warnings.simplefilter("ignore")
            found = self.made(models, season).forecast(values, self.horizon)["mean"]
        return np.asarray(found, dtype=np.float64)


def library() -> ModuleType:
    """Return ``statsforecast.models``.

    Raises:
        InputError: statsforecast is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from statsforecast import models
    except ImportError:
        raise InputError(
            "ets and theta need statsforecast, which is not installed; it comes with"
            ' pip install "kt-forecast[baselines]"'
        ) from None
    found: ModuleType = models
    return found


def _rows(x: Tensor) -> npt.NDArray[Any]:
    values = x.flatten(0, 1).cpu()
    return (values.double() if values.is_floating_point() else values).numpy()
