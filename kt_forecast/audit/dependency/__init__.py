"""Proves what a model's outputs may depend on, by following every tensor operation of a real run.

Each element of a tensor carries the latest moment of all inputs that it may depend on. The labels
hold for every input that takes the same path through the code and for all values of the
parameters; what cannot be followed is named.
"""

from kt_forecast.audit.dependency.analysis import OUTPUT, Tracked, track
from kt_forecast.audit.dependency.escapes import Escape
from kt_forecast.audit.dependency.labels import NEVER
from kt_forecast.audit.dependency.locate import Link, Origin

__all__ = ["NEVER", "OUTPUT", "Escape", "Link", "Origin", "Tracked", "track"]
