"""Softmax and its kin: a known mask takes no part, and what it weighs is a known zero."""

import torch

from kt_forecast.audit.dependency.calls import Call, Result, rule
from kt_forecast.audit.dependency.labels import NONE, Shadow, every, greatest
from kt_forecast.audit.dependency.rules_elementwise import decided


@rule("_softmax", "_safe_softmax", "softmax")
def _softmax(call: Call) -> Result:
    """A mask counts only where its weight came out as zero: a row of masks is uniform."""
    x, dim = call.args[:2]
    shadow = call.shadow(x)
    if x.ndim == 0:
        return shadow
    known = every(shadow.known, [dim])
    masked = call.masked(x, shadow) & (call.out == 0)
    row = greatest(shadow.latest.masked_fill(masked, NONE), [dim])
    return decided(Shadow(row.expand(x.shape), known.expand(x.shape)), masked)


@rule("_log_softmax", "log_softmax")
def _log_softmax(call: Call) -> Result:
    x, dim = call.args[:2]
    shadow = call.shadow(x)
    if x.ndim == 0:
        return shadow
    known = every(shadow.known, [dim])
    masked = call.masked(x, shadow)
    masked = masked & ~masked.all(dim, keepdim=True) if masked.ndim else masked
    row = greatest(shadow.latest.masked_fill(masked, NONE), [dim])
    sure = torch.isneginf(call.out) & masked
    return decided(Shadow(row.expand(x.shape), known.expand(x.shape)), sure)
