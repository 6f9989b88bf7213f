"""A stored forecaster as MLflow runs it: MLflow keeps the text of this file beside the weights."""

from importlib import import_module
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from kt_forecast.tracking.tracker import LEVEL, SHOWN_LEVEL


class StoredForecaster(PythonModel):  # type: ignore[misc]
    """A forecaster read from its own folder."""

    def load_context(self, context: Any) -> None:  # noqa: ANN401
        """Read the model that was stored with this file."""
        # Imported by name: tracking stands below the forecaster and knows only what it stored.
        self.model = import_module("kt_forecast.forecaster.estimator").load(
            context.artifacts["model"]
        )

    def predict(
        self,
        context: Any,  # noqa: ANN401, ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return a row for each series and step ahead: ``unique_id``, ``ds`` and the forecasts.

        Args:
            context: MLflow's; everything is in the model already.
            model_input: series up to the moment to forecast from; rows after a series' last value
                hold the covariates known in advance.
            params: ``level``, the percentage of the interval; where nobody says, the one that is
                shown, if the forecaster has it.
        """
        given = dict(params or {})
        calibrated = self.model.fitted_.conformal
        levels = () if calibrated is None else calibrated.levels
        # MLflow fills in what nobody said, and does not tell.
        if given.get(LEVEL) == SHOWN_LEVEL and SHOWN_LEVEL not in {100 * one for one in levels}:
            del given[LEVEL]
        return self.model.predict(model_input, **given)


set_model(StoredForecaster())
