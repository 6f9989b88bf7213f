"""Train, forecast, look back, save: what both the Python call and the command use."""

from kt_forecast.forecaster.fitting import Ahead, Fitted, fit_plan
from kt_forecast.forecaster.systems import Plan, plan

__all__ = ["Ahead", "Fitted", "Plan", "fit_plan", "plan"]
