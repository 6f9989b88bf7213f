"""A recipe of forecasting: one table of series, one or several horizons and seeds."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from kt_forecast.config import Config
from kt_forecast.data.series.splits import SeriesSplitSettings
from kt_forecast.experiment.recipe_base import BaseRecipe, ModelRecipe, SourceRecipe
from kt_forecast.schema import DS, UNIQUE_ID, Y

EVERY_FORECAST_SHOWS = ("seasonal_naive", "ridge")
HORIZON, CONTEXT = "horizon", "context"
SERIES_COLUMNS = (UNIQUE_ID, DS, Y)


class SeriesRecipe(SourceRecipe):
    """Where the series come from; what is not said is as the data set's card says, or detected.

    Attributes:
        freq: the step between stamps.
        stamps: ``order`` takes rows as equally spaced whatever their stamps say.
        gaps: missing values inside a series are refused, masked, or filled forward.
        past: covariates known up to the origin.
        future: covariates known in advance.
        static: facts of a series, constant in its rows.
        season: steps of the cycle.
    """

    format: Literal["auto", "long", "wide"] = "auto"
    freq: str | int | None = None
    stamps: Literal["auto", "dates", "order"] = "auto"
    gaps: Literal["refuse", "mask", "ffill"] = "refuse"
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    season: int | None = Field(None, ge=1)


class ForecastEvaluation(Config):
    """How the test rows are scored, once, at the end.

    Attributes:
        protocols: ``ltsf``, every window of the test rows; ``stream``, the same from a state that
            was carried along the whole series; ``rolling``, windows that do not overlap. The first
            one makes the headline.
        bootstraps: resamples of blocks of time behind an interval; 0 gives none.
        levels: of the intervals, as shares; calibrated on the validation windows.
    """

    protocols: tuple[Literal["ltsf", "stream", "rolling"], ...] = Field(("ltsf",), min_length=1)
    bootstraps: int = Field(500, ge=0)
    levels: tuple[float, ...] = (0.8, 0.9, 0.95)


class ForecastBaselines(Config):
    """What stands beside the model.

    Attributes:
        systems: names of fitted systems; seasonal naive and ridge always join them.
        settings: of some of them, by name.
        cache: whether a baseline fitted before, on the same rows, is taken from the cache.
    """

    systems: tuple[str, ...] = EVERY_FORECAST_SHOWS
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    cache: bool = True

    def names(self) -> tuple[str, ...]:
        """Return the baselines to show, without repetition."""
        return tuple(dict.fromkeys((*EVERY_FORECAST_SHOWS, *self.systems)))


class ForecastTracking(Config):
    """Where the run is recorded.

    Attributes:
        experiment: MLflow's group of runs.
        enabled: whether MLflow records the run; the run's own folder is written in any case.
    """

    experiment: str = "forecasting"
    enabled: bool = True


class ForecastRecipe(BaseRecipe):
    """One experiment of forecasting.

    Attributes:
        task: what is predicted.
        horizons: steps ahead, one model for each; their mean is reported. By default the one of
            ``forecasting``.
        seeds: one model for each; their mean and spread are reported. By default ``seed``.
        data: where the series come from.
        split: up to where each series trains, validates and tests; by default as results on the
            data set are published, or by one moment for all series.
        forecasting: settings of the task, beside those the system was published with.
        members: what else is trained, for the mean of all their forecasts; of each the changes that
            make it of the model above: ``system``, ``settings``, ``forecasting``, ``training``.
        evaluation: how the test rows are scored.
        baselines: what stands beside the model.
        tracking: where the run is recorded.
    """

    OF_SYSTEM: ClassVar[tuple[str, ...]] = ("model", "forecasting", "members")

    task: Literal["forecasting"] = "forecasting"
    horizons: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    data: SeriesRecipe
    split: SeriesSplitSettings | None = None
    model: ModelRecipe = ModelRecipe()
    forecasting: dict[str, Any] = Field(default_factory=dict)
    members: tuple[dict[str, Any], ...] = ()
    evaluation: ForecastEvaluation = ForecastEvaluation()
    baselines: ForecastBaselines = ForecastBaselines()
    tracking: ForecastTracking = ForecastTracking()

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        for name, given in (("horizons", self.horizons), ("seeds", self.seeds)):
            if len(set(given)) < len(given):
                raise ValueError(f"{name} names one twice")
        if any(horizon < 1 for horizon in self.horizons):
            raise ValueError("horizons holds one below 1")
        return self

    def each(self, title: str) -> tuple["ForecastRecipe", ...]:
        """Return a recipe for each horizon and seed, seeds of a horizon together.

        Args:
            title: of them all; each is called after it.
        """
        horizons = self.horizons or (self.forecasting.get(HORIZON),)
        found = []
        for horizon in horizons:
            for seed in self.seeds or (self.seed,):
                parts = [f"h{horizon}"] * bool(self.horizons) + [f"seed{seed}"] * bool(self.seeds)
                changes: dict[str, Any] = {"horizons": (), "seeds": (), "seed": seed}
                if self.horizons:
                    changes["forecasting"] = {HORIZON: horizon}
                if parts:
                    changes["name"] = "-".join((title, *parts))
                found.append(self.changed(changes, "horizons and seeds"))
        return tuple(found)

    def with_system(
        self, system: str, *, trained: bool, say: Callable[[str], None] | None = None
    ) -> Self:
        """Return the recipe for another system, which keeps what the task asks for.

        Args:
            system: its name; the recipe's own changes nothing.
            trained: whether it has epochs, and so takes the settings of the loop.
            say: told what of the task the other system cannot take over.
        """
        found = super().with_system(system, trained=trained)
        if found is self:
            return self
        from kt_forecast.forecaster.systems import taken_over

        kept, left = taken_over(system, self.forecasting)
        left += ["members"] if self.members else []
        if left and say is not None:
            say(f"{found.title()}: {', '.join(left)} of the recipe are not for {system}")
        return found.changed({"forecasting": kept}, "--system")
