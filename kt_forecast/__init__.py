"""kt_forecast: knowledge tracing, forecasting, and an auditor for information from the future.

The names below are imported when they are first used, so that importing the package loads neither
torch nor a tracking server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kt_forecast import audit
    from kt_forecast.tracer import KnowledgeTracer, load

__all__ = ["KnowledgeTracer", "audit", "load"]

_HOME = {"KnowledgeTracer": "kt_forecast.tracer", "load": "kt_forecast.tracer"}


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
