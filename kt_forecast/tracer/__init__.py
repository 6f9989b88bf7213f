"""Train, predict, follow one student, save: what both the Python call and the command use."""

from kt_forecast.tracer.estimator import KnowledgeTracer, load
from kt_forecast.tracer.fitting import Fitted, fit_plan, predict_rows
from kt_forecast.tracer.streaming import Stream, mastery_over_time
from kt_forecast.tracer.systems import Plan, plan

__all__ = [
    "Fitted",
    "KnowledgeTracer",
    "Plan",
    "Stream",
    "fit_plan",
    "load",
    "mastery_over_time",
    "plan",
    "predict_rows",
]
