"""Train, forecast, look back, save: what both the Python call and the command use."""

from kt_forecast.forecaster.estimator import Forecaster, load
from kt_forecast.forecaster.fitting import Ahead, Fitted, fit_plan, is_saved
from kt_forecast.forecaster.systems import Plan, plan

__all__ = ["Ahead", "Fitted", "Forecaster", "Plan", "fit_plan", "is_saved", "load", "plan"]
