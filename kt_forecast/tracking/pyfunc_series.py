"""A stored forecaster as MLflow runs it: MLflow keeps the text of this file beside the weights."""

from importlib import import_module
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


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
            params: ``level``, the percentage of the interval.
        """
        return self.model.predict(model_input, **(params or {}))


set_model(StoredForecaster())
