"""Operations that compute each element from the elements in its place.

Anything that torch marks as pointwise joins its arguments without a rule of its own; here stand
those in which a known constant decides: a zero in a product, a mask in a sum, a condition.
"""

import torch
from torch import Tensor

from kt_forecast.audit.dependency.calls import Call, Result, Value, rule
from kt_forecast.audit.dependency.labels import NO, NONE, YES, Shadow, join, thin, unknown


def decided(found: Shadow, constant: Tensor) -> Shadow:
    """Return a shadow in which some elements are constants, whatever else went in."""
    if constant.ndim == 0 and not bool(constant):
        return found
    return Shadow(torch.where(constant, NONE, found.latest), found.known | constant)


def holds(call: Call, x: Value, value: float) -> Tensor:
    """Return which elements of an argument are known to have a value."""
    if not isinstance(x, Tensor):
        return NO
    known = thin(call.shadow(x).known)
    if not bool(known.any()):
        return NO
    return known & (x == value)


@rule("mul", "logical_and", "bitwise_and", "__and__", "multiply")
def _product(call: Call) -> Result:
    a, b = call.args[:2]
    found = join(call.shadow(a), call.shadow(b))
    return decided(found, holds(call, a, 0.0) | holds(call, b, 0.0))


@rule("logical_or", "bitwise_or", "__or__")
def _either(call: Call) -> Result:
    a, b = call.args[:2]
    found = join(call.shadow(a), call.shadow(b))
    whole = isinstance(a, Tensor) and a.dtype != torch.bool and call.name is not _LOGICAL_OR
    sure = -1.0 if whole else 1.0
    return decided(found, holds(call, a, sure) | holds(call, b, sure))


_LOGICAL_OR = torch.ops.aten.logical_or


@rule("div", "true_divide", "divide")
def _quotient(call: Call) -> Result:
    a, b = call.args[:2]
    return decided(join(call.shadow(a), call.shadow(b)), holds(call, a, 0.0))


@rule("add", "sub", "rsub", "subtract")
def _sum(call: Call) -> Result:
    """A known mask stays a mask, whatever finite score is added."""
    a, b = call.args[:2]
    found = join(call.shadow(a), call.shadow(b))
    if not (isinstance(call.out, Tensor) and call.out.is_floating_point()):
        return found
    name = call.name.__name__.rstrip("_")
    constant = NO
    if isinstance(a, Tensor) and name != "rsub":
        constant = constant.to(a.device) | call.masked(a)
    if isinstance(b, Tensor) and name == "add" and call["alpha"] == 1:
        constant = constant.to(b.device) | call.masked(b)
    if isinstance(b, Tensor) and name == "sub" and call["alpha"] == 1:
        constant = constant.to(b.device) | _negative_mask(call, b)
    call.hidden(constant)
    return decided(found, constant)


def _negative_mask(call: Call, b: Tensor) -> Tensor:
    shadow = call.shadow(b)
    known = thin(shadow.known)
    return call.masked(-b, shadow) if bool(known.any()) else NO


@rule("where")
def _chosen(call: Call) -> Result:
    if len(call.args) == 1:
        return None
    return choose(call, *call.args)


@rule("masked_fill", "masked_fill_")
def _filled(call: Call) -> Result:
    x, mask, value = call.args
    return choose(call, mask, value, x)


Given = Value | tuple[Tensor, Shadow]
"""An argument, with its shadow where that is not the one of the argument as it is."""


def choose(call: Call, condition: Given, yes: Given, no: Given) -> Shadow:
    """Return what a choice between two values depends on.

    A known condition takes one side and never looks at the other. Where both sides are masks the
    result is one, whatever the condition.
    """
    (taken, chosen), (left, a), (right, b) = (_seen(call, x) for x in (condition, yes, no))
    assert isinstance(taken, Tensor)  # noqa: S101 - a condition is one
    either = join(chosen, a, b)
    either.known = torch.zeros((), dtype=torch.bool, device=taken.device)
    known = thin(chosen.known)
    if bool(known.any()):
        exact = torch.where(taken.bool(), a.latest.to(b.latest.dtype), b.latest)
        constant = known & torch.where(taken.bool(), a.known, b.known)
        either = Shadow(torch.where(known, exact, either.latest), constant)
    low = _low(call, left, a) & _low(call, right, b)
    call.hidden(low)
    return decided(either, low)


def _seen(call: Call, x: Given) -> tuple[Value, Shadow]:
    return x if isinstance(x, tuple) else (x, call.shadow(x))


def _low(call: Call, x: Value, shadow: Shadow) -> Tensor:
    if isinstance(x, Tensor):
        return call.masked(x, shadow)
    return torch.tensor(x is not None and x <= call.run.mask_at_most)


@rule("lerp")
def _interpolated(call: Call) -> Result:
    a, b, weight = call.args
    either = join(call.shadow(a), call.shadow(b), call.shadow(weight))
    for end, value in ((a, 0.0), (b, 1.0)):
        sure = holds(call, weight, value)
        if bool(sure.any()):
            shadow = call.shadow(end)
            either = Shadow(
                torch.where(sure, shadow.latest, either.latest),
                torch.where(sure, shadow.known, either.known),
            )
    return either


@rule("addcmul", "addcdiv")
def _added_product(call: Call) -> Result:
    x, a, b = call.args[:3]
    zero = holds(call, a, 0.0)
    if call.name.__name__.startswith("addcmul"):
        zero = zero | holds(call, b, 0.0)
    return join(call.shadow(x), decided(join(call.shadow(a), call.shadow(b)), zero))


@rule("fill", "fill_")
def _constant(call: Call) -> Result:
    value = call.args[1]
    shadow = call.shadow(value)
    return Shadow(shadow.latest, shadow.known)


@rule("zero", "zero_")
def _zero(call: Call) -> Result:  # noqa: ARG001 - a rule takes its call
    return Shadow(torch.tensor(NONE), YES)


@rule(
    "floor_divide",
    "float_power",
    "isclose",
    "complex",
    "polar",
    "clamp",
    "clamp_min",
    "clamp_max",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy",
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "soft_margin_loss",
    "prelu",
    "_prelu_kernel",
)
def _together(call: Call) -> Result:
    found = call.joined()
    if call.out.shape == found.latest.shape or call.out.ndim == found.latest.ndim > 0:
        return found
    return call.mixed() if call.out.ndim == 0 else unknown(found.latest)


@rule("isin")
def _member(call: Call) -> Result:
    """Whether an element is among others depends on all of those."""
    elements, others = call.args[:2]
    known = call.shadow(others)
    rank = int(known.latest.max()) if known.latest.numel() else NONE
    found = call.shadow(elements)
    sure = found.known & known.known.all()
    return Shadow(found.latest.clamp(min=rank), sure)
