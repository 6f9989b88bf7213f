"""Intervals that hold as often as they say: calibrated on the windows of the validation rows.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018), one correction a step ahead and
level. Where a system predicts the two quantiles of a level they are moved apart or together
(conformalised quantile regression, Romano, Patterson and Candès 2019); where it does not, the
interval is the forecast plus and minus a quantile of the absolute errors. Both are one formula: the
score of a value is how far it lies outside the interval, whose ends meet in the forecast where the
system predicts none.

What is promised: were the validation and the test windows exchangeable, at least the level's share
of values would lie inside at each step, over all series together. They are not. Neighbouring
windows overlap, so that the number of scores overstates what was seen, and what drifts between the
validation and the test rows is not corrected. Look at the coverage that an evaluation finds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kt_forecast.errors import InputError
from kt_forecast.evaluation.predicting import ForecastPredictor, Predicted, predicted
from kt_forecast.metrics.forecasting import ends, intervals_in, percent, place_of
from kt_forecast.sequences.series import Forecast, SeriesSet
from kt_forecast.sequences.windows import Origins

LEVELS = (0.8, 0.9, 0.95)

LEAST_WINDOWS = 30
"""Validation windows from which a series gets a scale of its own."""

SCORES_PER_STEP = 10_000
"""Scores kept of a step ahead and level; evenly thinned where there are more, as neighbouring
windows say nearly the same."""


def band(
    forecast: Forecast, level: float
) -> tuple[Float[Tensor, "batch channels horizon"], Float[Tensor, "batch channels horizon"]]:
    """Return lower and upper end of the interval of a level: two of the forecast's quantiles.

    Raises:
        InputError: the forecast lacks one of them.
    """
    found = _pair(forecast, level)
    if found is None:
        low, high = ends(level)
        raise InputError(
            f"there is no {percent(level)} % interval: the forecast has no quantiles {low:g} and"
            f" {high:g}; accepted are levels"
            f" {', '.join(percent(some) for some in intervals_in(forecast.levels)) or 'none'}"
        )
    return found


@dataclass(frozen=True)
class Conformal:
    """Corrections learned from validation windows.

    Attributes:
        levels: of the intervals, rising.
        correction: what an interval's ends move outwards by, for each level and step ahead, in the
            scale of the series.
        scale: mean absolute error of each series over the validation windows, in standardised
            units; of all series together where one has too few windows.
        pooled: mean absolute error of all series together.
        count: scores that each step ahead was calibrated on.
    """

    levels: tuple[float, ...]
    correction: Float[Tensor, "levels horizon"]
    scale: Float[Tensor, " series"]
    pooled: Float[Tensor, ""]
    count: Int[Tensor, " horizon"]

    @classmethod
    def fit(
        cls,
        predictor: ForecastPredictor,
        series: SeriesSet,
        valid: Origins,
        *,
        horizon: int,
        levels: tuple[float, ...] = LEVELS,
        windows_per_batch: int | None = None,
    ) -> Self:
        """Learn from what the predictor gets wrong on the validation windows.

        Errors are divided by the scale of their series, so that a series that is hard to forecast
        gets wider intervals, and then pooled over all series. The scale that a window's own errors
        are divided by leaves that window out, as a new window has no part in it either. The
        corrected rank of a level is that of n + 1 scores, ``ceil((n + 1) level)``.

        Args:
            predictor: fitted on the training rows.
            series: on the device where to compute.
            valid: windows that taught the predictor nothing.
            horizon: steps ahead.
            levels: of the intervals; those that the predictor has quantiles for come by themselves.
            windows_per_batch: windows of a batch; None for as many as bounded memory holds.

        Raises:
            InputError: there is no validation window, or a step ahead without any value, or a
                level outside (0, 1).
        """
        _refuse_levels(levels)
        if not len(valid):
            raise InputError(
                "there is no validation window to calibrate intervals on; accepted are splits whose"
                " validation rows hold the horizon, or forecasts without intervals"
            )
        errors = _Errors(series, valid, horizon)
        batches = predicted(
            predictor, series, valid, horizon=horizon, windows_per_batch=windows_per_batch
        )
        with torch.inference_mode():
            for seen in batches:
                if not errors.levels:
                    own = intervals_in(seen.forecast.levels)
                    errors.levels = tuple(sorted({round(level, 12) for level in (*levels, *own)}))
                errors.add(seen)
            return errors.learned(cls).to("cpu")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the intervals should know, one sentence each."""
        least = int(self.count.min())
        needed = [level for level in self.levels if np.ceil((least + 1) * level) > least]
        if not needed:
            return ()
        return (
            f"{least} values a step ahead are too few to calibrate the {percent(needed[0])} %"
            " interval, which ends at the largest error seen",
        )

    def to(self, device: torch.device | str) -> Self:
        """Return the corrections on ``device``."""
        return replace(
            self,
            **{
                name: getattr(self, name).to(device)
                for name in ("correction", "scale", "pooled", "count")
            },
        )

    def apply(
        self, forecast: Forecast, series: Int[Tensor, "batch channels"] | None = None
    ) -> Forecast:
        """Return the forecast with calibrated quantiles.

        Its quantiles are the ends of the intervals, read by `band`, and the median, which is the
        point where the system predicts none. An interval holds the point, the median and every
        interval of a lower level.

        Args:
            forecast: by the predictor that the corrections were learned of.
            series: number of each channel's series; None for series that were not calibrated on.

        Raises:
            InputError: the forecast has another horizon.
        """
        if forecast.point.shape[-1] != self.correction.shape[1]:
            raise InputError(
                f"the intervals were calibrated for {self.correction.shape[1]} steps ahead, not"
                f" {forecast.point.shape[-1]}; accepted is the same horizon"
            )
        scale = self.pooled if series is None else self.scale[series][..., None]
        point = forecast.point
        middle = _median(forecast)
        lower, upper = torch.minimum(point, middle), torch.maximum(point, middle)
        lowers, uppers = [], []
        for level, correction in zip(self.levels, self.correction, strict=True):
            low, high = _pair(forecast, level) or (point, point)
            outwards = (correction * scale).to(point)
            lower = torch.minimum(lower, low - outwards)
            upper = torch.maximum(upper, high + outwards)
            lowers.append(lower)
            uppers.append(upper)
        low_levels = [ends(level)[0] for level in reversed(self.levels)]
        high_levels = [ends(level)[1] for level in self.levels]
        return Forecast(
            point=point,
            quantiles=torch.stack([*reversed(lowers), middle, *uppers], -1),
            levels=(*low_levels, 0.5, *high_levels),
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything learned, by name."""
        return {
            "levels": np.array(self.levels),
            "correction": self.correction.cpu().numpy(),
            "scale": self.scale.cpu().numpy(),
            "pooled": self.pooled.cpu().numpy(),
            "count": self.count.cpu().numpy(),
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Return what `arrays` was taken from."""
        tensors = {
            name: torch.from_numpy(np.array(arrays[name]))
            for name in ("correction", "scale", "pooled", "count")
        }
        return cls(levels=tuple(map(float, arrays["levels"])), **tensors)


class _Errors:
    """Scores of the validation windows, and the sums that scales are made of.

    Args:
        series: the series.
        valid: the windows.
        horizon: steps ahead.
    """

    def __init__(self, series: SeriesSet, valid: Origins, horizon: int) -> None:
        self.levels: tuple[float, ...] = ()
        self.horizon = horizon
        channels = series.n_series if valid.mixing else 1
        self.share = min(1.0, SCORES_PER_STEP / (len(valid) * channels))
        device = series.values.device
        zeros = torch.zeros(3, series.n_series, dtype=torch.float64, device=device)
        self.total, self.n, self.windows = zeros
        self.kept: list[tuple[Tensor, ...]] = []

    def add(self, seen: Predicted) -> None:
        """Take a batch: its errors into the sums, and the scores of the windows that are kept."""
        error = (seen.target - seen.forecast.point).abs().double()
        n = torch.full_like(error[..., 0], self.horizon)
        if seen.scored is not None:
            error = error.where(seen.scored, 0.0)
            n = seen.scored.sum(-1).double()
        total = error.sum(-1)
        series = seen.series.flatten()
        self.total.index_add_(0, series, total.flatten())
        self.n.index_add_(0, series, n.flatten())
        self.windows.index_add_(0, series, (n > 0).double().flatten())
        places = np.floor(seen.numbers * self.share)
        kept = np.flatnonzero(np.floor((seen.numbers + 1) * self.share) > places)
        if not len(kept):
            return
        chosen = torch.from_numpy(kept).to(series.device)
        scores = torch.stack(list(_scores(seen, self.levels)), -1)[chosen]
        self.kept.append(
            (
                scores.flatten(0, 1).float(),
                seen.series[chosen].flatten(),
                total[chosen].flatten(),
                n[chosen].flatten(),
            )
        )

    def learned(self, of: type[Conformal]) -> Any:  # noqa: ANN401 - the class that is asked for
        """Return the corrections.

        Raises:
            InputError: a step ahead has no value.
            RuntimeError: a forecast is not finite.
        """
        if not self.total.isfinite().all():
            raise RuntimeError("a forecast of a validation window is not finite")
        scores, series, total, n = (torch.cat(part) for part in zip(*self.kept, strict=True))
        count = scores[..., 0].isfinite().sum(0)
        if not int(count.min()):
            raise InputError(
                f"no validation window has a value {int(count.argmin()) + 1} steps ahead, so"
                " intervals cannot be calibrated; accepted are validation rows with values"
            )
        pooled = self.total.sum() / self.n.sum()
        pooled = _positive(pooled, torch.ones_like(pooled))
        enough = (self.windows >= LEAST_WINDOWS) & (self.n > 0)
        scale = _positive((self.total / self.n).where(enough, pooled), pooled)
        others = (self.total[series] - total) / (self.n[series] - n)
        others = _positive(others.where(enough[series], pooled), pooled)
        scaled = scores / others[:, None, None].float()
        correction = torch.stack(
            [_ranked(scaled[..., i].T.contiguous(), level) for i, level in enumerate(self.levels)]
        )
        return of(self.levels, correction.double(), scale, pooled, count)


def _scores(seen: Predicted, levels: tuple[float, ...]) -> Iterator[Tensor]:
    """Yield how far each value lies outside its interval of each level; infinite where missing."""
    forecast = seen.forecast
    for level in levels:
        low, high = _pair(forecast, level) or (forecast.point, forecast.point)
        score = torch.maximum(low - seen.target, seen.target - high)
        yield score if seen.scored is None else score.where(seen.scored, torch.inf)


def _ranked(scores: Float[Tensor, "horizon windows"], level: float) -> Float[Tensor, " horizon"]:
    """Return the score of each step whose rank belongs to the level among one score more."""
    n = scores.isfinite().sum(1)
    rank = torch.ceil((n + 1).double() * level - 1e-9).long()
    place = (torch.minimum(rank, n) - 1).clamp_min(0)
    return scores.sort(1).values.gather(1, place[:, None])[:, 0]


def _pair(forecast: Forecast, level: float) -> tuple[Tensor, Tensor] | None:
    """Return the two quantiles of a level's interval; None where the forecast lacks one."""
    low, high = (place_of(end, forecast.levels) for end in ends(level))
    if forecast.quantiles is None or low is None or high is None:
        return None
    return forecast.quantiles[..., low], forecast.quantiles[..., high]


def _median(forecast: Forecast) -> Tensor:
    place = place_of(0.5, forecast.levels)
    if forecast.quantiles is None or place is None:
        return forecast.point
    return forecast.quantiles[..., place]


def _positive(values: Tensor, other: Tensor) -> Tensor:
    """Return values, and the other one where they are not above zero."""
    return values.where(values > 0, other)


def _refuse_levels(levels: tuple[float, ...]) -> None:
    bad = [level for level in levels if not 0 < level < 1]
    if bad:
        raise InputError(
            f"an interval of level {bad[0]:g} was asked for; accepted are shares between 0 and 1,"
            " such as 0.9"
        )
