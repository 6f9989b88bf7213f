"""A stored model as MLflow runs it: MLflow keeps the text of this file beside the weights."""

from importlib import import_module
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from kt_forecast.schema import P_CORRECT


class StoredTracer(PythonModel):  # type: ignore[misc]
    """A knowledge tracer read from its own folder."""

    def load_context(self, context: Any) -> None:  # noqa: ANN401
        """Read the model that was stored with this file."""
        # Imported by name: tracking stands below the tracer and knows it only by what it stored.
        self.model = import_module("kt_forecast").load(context.artifacts["model"])

    def predict(
        self,
        context: Any,  # noqa: ANN401, ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """Return ``p_correct`` for every row, from the rows of its student before it.

        Args:
            context: MLflow's; everything is in the model already.
            model_input: interactions; the response may be missing where it is asked for.
            params: MLflow's; none are known.
        """
        return self.model.predict_proba(model_input)[[P_CORRECT]]


set_model(StoredTracer())
