"""kt_forecast: knowledge tracing, forecasting, and an auditor for information from the future.

The names below are imported when they are first used, so that importing the package loads neither
torch nor a tracking server.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kt_forecast import audit
    from kt_forecast.forecaster import Forecaster
    from kt_forecast.tracer import KnowledgeTracer
    from kt_forecast.tuning import Search

__all__ = ["Forecaster", "KnowledgeTracer", "Search", "audit", "load"]

_HOME = {
    "Forecaster": "kt_forecast.forecaster",
    "KnowledgeTracer": "kt_forecast.tracer",
    "Search": "kt_forecast.tuning",
}


def load(folder: str | Path, *, device: str = "auto") -> "Forecaster | KnowledgeTracer":
    """Return the forecaster or the tracer that was saved; nothing in the folder is executed.

    Args:
        folder: where it was saved, or a registered model: ``name@alias``.
        device: where it shall compute.

    Raises:
        InputError: there is no model, or it is not one that this version reads.
    """
    from kt_forecast import forecaster, tracer
    from kt_forecast.tracking.registry import local

    folder = local(folder)
    found: Forecaster | KnowledgeTracer
    if forecaster.is_saved(folder):
        found = forecaster.load(folder, device=device)
    else:
        found = tracer.load(folder, device=device)
    return found


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name.

    Raises:
        AttributeError: there is no such name.
    """
    if name == "audit":
        return import_module("kt_forecast.audit")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
