"""All families of rules; importing this module registers them."""

from kt_forecast.audit.dependency import (
    rules_convolution,
    rules_elementwise,
    rules_indexing,
    rules_movement,
    rules_normalisation,
    rules_product,
    rules_random,
    rules_reduction,
    rules_softmax,
    rules_spectral,
)
from kt_forecast.audit.dependency.rules_movement import view
from kt_forecast.audit.dependency.rules_random import made

FAMILIES = (
    rules_convolution,
    rules_elementwise,
    rules_indexing,
    rules_movement,
    rules_normalisation,
    rules_product,
    rules_random,
    rules_reduction,
    rules_softmax,
    rules_spectral,
)

__all__ = ["FAMILIES", "made", "view"]
