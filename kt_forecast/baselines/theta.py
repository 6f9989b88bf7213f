"""The Theta method: a line and a smoothed series of doubled curvature, averaged.

A series with a season is first divided or lowered by its seasonal pattern. Fitted by
statsforecast, which comes with the extra ``baselines``.
"""

from types import ModuleType
from typing import Any, Literal

from kt_forecast.baselines import Baseline
from kt_forecast.baselines._local import Local, LocalConfig
from kt_forecast.nn.system import Paper


class ThetaConfig(LocalConfig):
    """Settings of `Theta`.

    Attributes:
        context: steps before the origin that it reads; None for as many as the systems beside it.
        season: steps of the cycle; None for that of the series.
        form: standard (STM) or optimised (OTM), or their dynamic forms (Fiorucci et al. 2016);
            None chooses for each series.
        season_form: how the seasonal pattern is taken out; standardised values have both signs,
            for which only ``additive`` makes sense.
    """

    form: Literal["STM", "OTM", "DSTM", "DOTM"] | None = None
    season_form: Literal["additive", "multiplicative"] = "additive"


class Theta(Local):
    """Theta method on each context."""

    config: ThetaConfig

    def made(self, models: ModuleType, season: int) -> Any:  # noqa: ANN401
        """Return an unfitted AutoTheta."""
        config = self.config
        return models.AutoTheta(
            season_length=season, model=config.form, decomposition_type=config.season_form
        )


BASELINE = Baseline(
    task="forecasting",
    config=ThetaConfig,
    build=Theta,
    paper=Paper(
        title="The Theta Model: A Decomposition Approach to Forecasting",
        authors="Assimakopoulos, Nikolopoulos",
        year=2000,
        url="https://doi.org/10.1016/S0169-2070(00)00066-2",
    ),
)
