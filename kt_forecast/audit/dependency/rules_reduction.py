"""Operations that reduce or scan axes: sums, extremes, order, selection, cumulation."""

import torch
from torch import Tensor

from kt_forecast.audit.dependency.calls import Call, Result, rule
from kt_forecast.audit.dependency.labels import NONE, Shadow, every, greatest, join, top, unknown


def reduced(call: Call, axes: list[int], shadow: Shadow) -> Shadow:
    """Return the join over axes, in the shape of the first output."""
    x, out = call.args[0], call.outs[0]
    keep = out.ndim == x.ndim
    return Shadow(greatest(shadow.latest, axes, keep=keep), every(shadow.known, axes, keep=keep))


@rule(
    "sum",
    "mean",
    "nansum",
    "prod",
    "any",
    "all",
    "_is_all_true",
    "_is_any_true",
    "count_nonzero",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "median",
    "nanmedian",
    "mode",
    "kthvalue",
    "aminmax",
    "linalg_vector_norm",
    "norm",
)
def _reduced(call: Call) -> Result:
    x = call.args[0]
    return reduced(call, call.axes("dim", x), call.shadow(x))


@rule("amax", "argmax", "logsumexp", "amin", "argmin")
def _outermost(call: Call) -> Result:
    """What is known to be masked cannot be the greatest, if anything else is there."""
    x = call.args[0]
    return reduced(call, call.axes("dim", x), _unmasked(call, x, lowest=_seeks_least(call)))


@rule("max", "min")
def _extreme(call: Call) -> Result:
    x = call.args[0]
    if len(call.args) > 1 and isinstance(call.args[1], Tensor):
        return join(call.shadow(x), call.shadow(call.args[1]))
    axes = call.axes("dim", x)
    return reduced(call, axes, _unmasked(call, x, lowest=_seeks_least(call)))


def _seeks_least(call: Call) -> bool:
    return call.name.__name__ in {"min", "amin", "argmin"}


def _unmasked(call: Call, x: Tensor, *, lowest: bool = False) -> Shadow:
    """Return a shadow without what masked elements depend on; masks of a minimum are high."""
    shadow = call.shadow(x)
    masked = call.masked(-x if lowest and x.is_floating_point() else x, shadow)
    if not bool(masked.any()):
        return shadow
    return Shadow(shadow.latest.masked_fill(masked, NONE), shadow.known)


@rule("sort", "argsort", "topk", "msort")
def _ranked(call: Call) -> Result:
    """Every place of an order, and which elements are chosen, depends on the whole row."""
    x = call.args[0]
    dim = call["dim"] if call.has("dim") else 0
    if x.ndim == 0:
        return call.shadow(x)
    shadow = _unmasked(call, x)
    row = Shadow(greatest(shadow.latest, [dim]), every(shadow.known, [dim]))
    return [row.expand(out.shape) for out in call.outs]


@rule("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "_cummax_helper")
def _cumulated(call: Call) -> Result:
    x, dim = call.args[0], call.args[1]
    shadow = call.shadow(x)
    if x.ndim == 0 or x.numel() == 0:
        return shadow
    latest = shadow.latest.contiguous().cummax(dim).values
    known = (~shadow.known).to(torch.int8).cummax(dim).values == 0
    return Shadow(latest, known)


@rule("searchsorted", "bucketize")
def _placed(call: Call) -> Result:
    """Where a value falls among others depends on it and on all of those."""
    name = call.name.__name__
    row, values = (call.args[0], call.args[1]) if name == "searchsorted" else call.args[1::-1]
    edges, found = call.shadow(row), call.shadow(values)
    known = bool(every(edges.known, keep=False))
    if row.ndim <= 1:
        return Shadow(found.latest.clamp(min=top(edges.latest)), found.known & known)
    along = greatest(edges.latest, [-1])
    return Shadow(torch.maximum(found.latest, along), found.known & known)


@rule("histc", "_histogramdd_bin_edges", "dist", "trace", "equal", "nuclear_norm")
def _mixed(call: Call) -> Result:
    return call.mixed()


@rule("multinomial")
def _drawn(call: Call) -> Result:
    shadow = call.shadow(call.args[0])
    return unknown(greatest(shadow.latest, [-1]))
