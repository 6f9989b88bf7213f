"""Tensors made from nothing, and random draws: constants, or values that no input reaches."""

import torch
from torch import Tensor

from kt_forecast.audit.dependency.calls import Call, Result, rule
from kt_forecast.audit.dependency.labels import NONE, Shadow, unknown

_UNSET = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "resize"}


def made(call: Call, *, random: bool) -> Result:
    """Return the shadow of what is made from plain numbers only."""
    numbers = [x for x in (*call.args, *call.kwargs.values()) if isinstance(x, float)]
    rank = max((call.run.number(x) for x in numbers), default=NONE)
    return Shadow(torch.tensor(rank), torch.tensor(not random and rank == NONE))


@rule("zeros_like", "ones_like", "new_zeros", "new_ones", "full_like", "new_full", "scalar_tensor")
@rule("full", "zeros", "ones", "eye", "arange", "linspace", "logspace")
def _constant(call: Call) -> Result:
    for value in (*call.args[1:], *call.kwargs.values()):
        if isinstance(value, Tensor):
            return unknown(call.mixed().latest)
    return made(call, random=False)


@rule("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted")
@rule("rand_like", "randn_like", "randint_like", "normal_", "uniform_", "exponential_", "random_")
@rule("cauchy_", "log_normal_", "geometric_")
def _arbitrary(call: Call) -> Result:  # noqa: ARG001 - a rule takes its call
    return unknown(torch.tensor(NONE))


@rule("bernoulli", "bernoulli_")
def _flipped(call: Call) -> Result:
    """A coin is loaded by a tensor of probabilities, not by the tensor that it fills."""
    loaded = [x for x in call.args[1:] if isinstance(x, Tensor)]
    fills = call.func._overloadname not in {"", "out", "default"}  # noqa: SLF001 - no other way
    if loaded or fills:
        return unknown(call.shadow(loaded[0]).latest if loaded else torch.tensor(NONE))
    return unknown(call.shadow(call.args[0]).latest)


@rule("native_dropout")
def _dropped(call: Call) -> Result:
    shadow = call.shadow(call.args[0])
    return [unknown(shadow.latest), unknown(torch.tensor(NONE))]


@rule("poisson", "binomial", "_standard_gamma", "normal", "_fused_dropout")
def _drawn_from(call: Call) -> Result:
    return unknown(call.joined().latest)
