"""Between what whole numbers lie, whatever the inputs hold: an index reaches no row beyond.

Labels say which inputs a value may depend on, not which values it may take. For computed indices
that is too little: a step that reads rows chosen by value reads, as far as labels know, any row.
Code that cannot choose a later row says so in arithmetic (the smaller of what was chosen and the
own place, the highest of places that are not masked), and that can be followed like everything
else: each element of a tensor of whole numbers has a lowest and a highest value for all inputs.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kt_forecast.audit.dependency.calls import Call
from kt_forecast.audit.dependency.labels import thin

WHOLE = {torch.int64, torch.int32}
"""Types whose bounds are followed."""

BEYOND = 2**31
"""Numbers at least this far from zero are taken to be unbounded, so that no sum overflows."""

Bounds = tuple[Tensor, Tensor]
"""The lowest and the highest value of each element; `BEYOND` where there is none."""

Followed = Bounds | list[Bounds | None] | None
"""Bounds of the first result, or of each of several."""

Follow = Callable[[Call], Followed]

FOLLOWS: dict[object, Follow] = {}


def follows(*names: str) -> Callable[[Follow], Follow]:
    """Register how operations of ATen bound what they return."""

    def register(found: Follow) -> Follow:
        for name in names:
            FOLLOWS[getattr(torch.ops.aten, name)] = found
        return found

    return register


def bounded(call: Call, *, views: bool) -> list[Bounds | None]:
    """Return the bounds of each result of an operation; None where nothing is known of them."""
    found = FOLLOWS.get(call.name) or (_moved if views else None)
    outs = call.outs
    if found is None or not any(out.dtype in WHOLE for out in outs):
        return []
    if all(bool(thin(call.run.shadow(out).known).all()) for out in outs):
        return []  # what is a constant is read from its value
    given = found(call)
    every = given if isinstance(given, list) else [given]
    return [
        None if bounds is None or out.dtype not in WHOLE else _fitted(bounds, out)
        for out, bounds in zip(outs, every, strict=False)
    ]


def _fitted(bounds: Bounds, out: Tensor) -> Bounds | None:
    low, high = (x.to(out.device).clamp(-BEYOND, BEYOND) for x in bounds)
    if out.dtype != torch.int64:
        # Numbers too large for their type come out small.
        free = (low <= -BEYOND) | (high >= BEYOND)
        low, high = torch.where(free, -BEYOND, low), torch.where(free, BEYOND, high)
    if bool((thin(low) <= -BEYOND).all()) and bool((thin(high) >= BEYOND).all()):
        return None
    return low.expand(out.shape), high.expand(out.shape)


def of(call: Call, x: object) -> Bounds:
    """Return the bounds of an argument: of a constant itself, of what is not followed none."""
    if isinstance(x, int):
        return torch.tensor(x), torch.tensor(x)
    if not isinstance(x, Tensor):
        return torch.tensor(-BEYOND), torch.tensor(BEYOND)
    known = call.run.bounds(x)
    if known is not None:
        return known
    if x.dtype == torch.bool:
        least, most = torch.tensor(0), torch.tensor(1)
    elif x.dtype in WHOLE or x.dtype in {torch.uint8, torch.int16}:
        most = torch.tensor(_most(x.dtype))
        least = torch.tensor(0) if x.dtype == torch.uint8 else -most
    else:
        return torch.tensor(-BEYOND), torch.tensor(BEYOND)
    sure = call.shadow(x).known
    if not bool(thin(sure).any()):
        return least.expand(x.shape), most.expand(x.shape)
    value = x.long().clamp(-BEYOND, BEYOND)
    return torch.where(sure, value, least), torch.where(sure, value, most)


def _most(kind: torch.dtype) -> int:
    return {torch.uint8: 2**8 - 1, torch.int16: 2**15}.get(kind, BEYOND)


def reached(latest: Tensor, dim: int, bounds: Bounds | None, index: Tensor) -> Tensor:
    """Return the greatest label along an axis that an index within bounds can reach.

    Args:
        latest: labels of what is indexed.
        dim: the axis.
        bounds: of the index; not negative.
        index: in the shape of what is gathered along the axis.
    """
    size = latest.shape[dim]
    within = tuple(
        slice(None) if a == dim % latest.ndim else slice(0, n) for a, n in enumerate(index.shape)
    )
    if bounds is None or size == 0:
        return latest.amax(dim, keepdim=True)[within] if size else latest[within]
    low, high = (x.clamp(0, size - 1) for x in bounds)
    greatest, wide = latest.contiguous(), 1
    found = greatest[within].gather(dim, low)
    # Two overlapping stretches of twice as many rows each time cover every interval.
    while bool((high - low >= wide).any()):
        further = torch.arange(size, device=latest.device).add_(wide).clamp_(max=size - 1)
        here = greatest[within]
        both = torch.maximum(
            here.gather(dim, low), here.gather(dim, (high + 1 - wide).clamp(min=0))
        )
        found = torch.where(high - low >= wide, torch.maximum(found, both), found)
        greatest, wide = torch.maximum(greatest, greatest.index_select(dim, further)), 2 * wide
    return found


@follows("flip", "roll", "repeat", "clone")
def _moved(call: Call) -> Followed:
    """Follow what moves elements: their bounds move in the same way."""
    x = call.args[0] if call.args else None
    if not isinstance(x, Tensor) or any(isinstance(a, Tensor) for a in call.args[1:]):
        return None
    rest = {k: v for k, v in call.kwargs.items() if k != "memory_format"}
    low, high = (call.func(b.expand(x.shape), *call.args[1:], **rest) for b in of(call, x))
    return (low, high) if isinstance(call.out, Tensor) else list(zip(low, high, strict=True))


@follows("view", "_unsafe_view", "_reshape_alias", "reshape")
def _reshaped(call: Call) -> Followed:
    if call.out.numel() != call.args[0].numel():
        return None
    low, high = (b.expand(call.args[0].shape) for b in of(call, call.args[0]))
    return low.reshape(call.out.shape), high.reshape(call.out.shape)


@follows("_to_copy")
def _converted(call: Call) -> Followed:
    x = call.args[0]
    return None if x.is_floating_point() or x.is_complex() else of(call, x)


@follows("cat", "stack")
def _joined(call: Call) -> Followed:
    parts = [tuple(b.expand(x.shape) for b in of(call, x)) for x in call.args[0]]
    low, high = zip(*parts, strict=True)
    return call.func(list(low), *call.args[1:]), call.func(list(high), *call.args[1:])


@follows("minimum", "maximum")
def _outermost(call: Call) -> Followed:
    (low, high), (other_low, other_high) = (of(call, x) for x in call.args[:2])
    pick = torch.minimum if call.name.__name__.startswith("min") else torch.maximum
    return pick(low, other_low), pick(high, other_high)


@follows("clamp", "clamp_min", "clamp_max")
def _clamped(call: Call) -> Followed:
    low, high = of(call, call.args[0])
    least, most = (call[name] if call.has(name) else None for name in ("min", "max"))
    for limit, pick in ((least, torch.maximum), (most, torch.minimum)):
        if limit is not None:
            if not isinstance(limit, Tensor | int):
                return None
            below, above = of(call, limit)
            low, high = pick(low, below), pick(high, above)
    return low, high


@follows("where")
def _chosen(call: Call) -> Followed:
    if len(call.args) != 3:
        return None
    condition, yes, no = call.args
    return _either(call, condition, yes, no)


@follows("masked_fill")
def _filled(call: Call) -> Followed:
    x, condition, value = call.args
    if isinstance(value, float):
        return None
    return _either(call, condition, value, x)


def _either(call: Call, condition: Tensor, yes: object, no: object) -> Bounds:
    (low, high), (other_low, other_high) = of(call, yes), of(call, no)
    sure = call.shadow(condition).known
    return (
        torch.where(
            sure, torch.where(condition.bool(), low, other_low), torch.minimum(low, other_low)
        ),
        torch.where(
            sure, torch.where(condition.bool(), high, other_high), torch.maximum(high, other_high)
        ),
    )


@follows("add", "sub")
def _sum(call: Call) -> Followed:
    a, b = call.args[:2]
    if call["alpha"] != 1 or isinstance(b, float):
        return None
    (low, high), (other_low, other_high) = of(call, a), of(call, b)
    if call.name is torch.ops.aten.sub:
        other_low, other_high = -other_high, -other_low
    free = torch.zeros((), dtype=torch.bool)
    for part in (low, high, other_low, other_high):
        free = free | (part.abs() >= BEYOND)
    return (
        torch.where(free, -BEYOND, low + other_low),
        torch.where(free, BEYOND, high + other_high),
    )


@follows("remainder")
def _rest(call: Call) -> Followed:
    size = call.args[1]
    if not isinstance(size, int) or size <= 0:
        return None
    return torch.tensor(0), torch.tensor(size - 1)


@follows("amax", "amin", "max", "min", "topk", "sort", "cummax", "cummin")
def _selected(call: Call) -> Followed:
    """What is chosen along an axis lies between the lowest and the highest there, and is there."""
    x = call.args[0]
    if len(call.args) > 1 and isinstance(call.args[1], Tensor):
        return _outermost(call)
    if x.ndim == 0 or x.numel() == 0:
        return None
    values = _among(call, x) if x.dtype in WHOLE else None
    if len(call.outs) == 1:
        return values
    size = x.shape[call["dim"] if call.has("dim") else -1]
    return [values, _places(size)]


def _among(call: Call, x: Tensor) -> Bounds:
    low, high = (b.expand(x.shape).contiguous() for b in of(call, x))
    if call.name.__name__.startswith("cum"):
        scan = torch.cummax if call.name is torch.ops.aten.cummax else torch.cummin
        return scan(low, call["dim"]).values, scan(high, call["dim"]).values
    axes = call.axes("dim", x)
    low, high = low.amin(axes, keepdim=True), high.amax(axes, keepdim=True)
    if call.outs[0].ndim != x.ndim:
        low, high = low.reshape(call.outs[0].shape), high.reshape(call.outs[0].shape)
    return low, high


def _places(size: int) -> Bounds:
    return torch.tensor(0), torch.tensor(max(size - 1, 0))


@follows("argmax", "argmin", "argsort")
def _placed(call: Call) -> Followed:
    x = call.args[0]
    axes = call.axes("dim", x)
    return _places(math.prod(x.shape[a] for a in axes))


@follows("gather")
def _gathered(call: Call) -> Followed:
    x, dim, index = call.args[:3]
    if x.ndim == 0 or x.dtype not in WHOLE or x.shape[dim] == 0:
        return None
    low, high = (b.expand(x.shape).contiguous() for b in of(call, x))
    within = call.run.bounds(index)
    return -reached(-low, dim, within, index), reached(high, dim, within, index)
