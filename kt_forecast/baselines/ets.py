"""Exponential smoothing, its form chosen anew for each series by an information criterion.

Error, trend and season may be absent, additive or multiplicative (Hyndman et al. 2002). Fitted by
statsforecast, which comes with the extra ``baselines``.
"""

from types import ModuleType
from typing import Any

from pydantic import Field

from kt_forecast.baselines import Baseline
from kt_forecast.baselines._local import Local, LocalConfig
from kt_forecast.nn.system import Paper


class ETSConfig(LocalConfig):
    """Settings of `ETS`.

    Attributes:
        context: steps before the origin that it reads; None for as many as the systems beside it.
        season: steps of the cycle; None for that of the series.
        form: error, trend and season, each by a letter: N none, A additive, M multiplicative,
            Z chosen.
    """

    form: str = Field("ZZZ", pattern="^[AMZ][NAMZ][NAMZ]$")


class ETS(Local):
    """Exponential smoothing of each context; seasons beyond `MOST_SEASON` are left out."""

    config: ETSConfig
    MOST_SEASON = 24

    def made(self, models: ModuleType, season: int) -> Any:  # noqa: ANN401
        """Return an unfitted AutoETS."""
        form = self.config.form if season > 1 else self.config.form[:2] + "N"
        return models.AutoETS(season_length=season, model=form)


BASELINE = Baseline(
    task="forecasting",
    config=ETSConfig,
    build=ETS,
    paper=Paper(
        title="A State Space Framework for Automatic Forecasting Using Exponential Smoothing",
        authors="Hyndman, Koehler, Snyder, Grose",
        year=2002,
        url="https://doi.org/10.1016/S0169-2070(01)00110-8",
    ),
)
