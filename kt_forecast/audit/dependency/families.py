"""All families of rules; importing this module registers them."""
# ruff: noqa: F401 - a family is imported for the rules that it registers

import kt_forecast.audit.dependency.rules_bags
import kt_forecast.audit.dependency.rules_cells
import kt_forecast.audit.dependency.rules_convolution
import kt_forecast.audit.dependency.rules_elementwise
import kt_forecast.audit.dependency.rules_indexing
import kt_forecast.audit.dependency.rules_normalisation
import kt_forecast.audit.dependency.rules_product
import kt_forecast.audit.dependency.rules_reduction
import kt_forecast.audit.dependency.rules_softmax
import kt_forecast.audit.dependency.rules_spectral
from kt_forecast.audit.dependency.rules_movement import view
from kt_forecast.audit.dependency.rules_random import made

__all__ = ["made", "view"]
