"""Operations that pick elements by index: known indices move labels, computed ones join theirs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kt_forecast.audit.dependency.bounds import reached
from kt_forecast.audit.dependency.calls import Call, Result, Value, rule
from kt_forecast.audit.dependency.labels import (
    NO,
    NONE,
    YES,
    Shadow,
    every,
    greatest,
    join,
    top,
    unknown,
)
from kt_forecast.audit.dependency.rules_elementwise import choose

Indices = Sequence[Tensor | None]


def fixed(call: Call, *indices: Tensor | None) -> bool:
    """Return whether indices are constants, or taken for constants."""
    given = [call.shadow(i) for i in indices if i is not None]
    if all(bool(every(s.known, keep=False)) for s in given):
        return True
    if call.run.freezes_routing:
        rank = max((top(s.latest) for s in given), default=NONE)
        call.run.routed(rank, call.name.__name__)
        return True
    return False


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in {torch.bool, torch.uint8}


def _shape_escapes(call: Call, *decide: Tensor) -> int:
    rank = max((top(call.shadow(x).latest) for x in decide), default=NONE)
    call.run.escape(rank, f"the shape of {call.name.__name__}")
    return rank


@rule("index", "_unsafe_index", "_index")
def _indexed(call: Call) -> Result:
    x, indices = call.args[:2]
    masks = [i for i in indices if i is not None and _is_mask(i)]
    if masks and not all(bool(every(call.shadow(i).known, keep=False)) for i in masks):
        _shape_escapes(call, *masks)
    shadow = call.shadow(x)
    if fixed(call, *indices):
        return Shadow(
            torch.ops.aten.index(shadow.latest.contiguous(), indices),
            torch.ops.aten.index(shadow.known.contiguous(), indices),
        )
    if masks:
        return None
    return unknown(_rows_of(call, shadow.latest, indices))


def _adjacent(axes: list[int]) -> bool:
    return axes == list(range(axes[0], axes[-1] + 1))


def _rows_of(call: Call, latest: Tensor, indices: Indices) -> Tensor:
    """Return labels of computed indices: the greatest along what they choose from, and theirs.

    Indices among them that are constants move labels as they do elsewhere.
    """
    free, held = _held(call, indices)
    body = torch.ops.aten.index(greatest(latest, free).contiguous(), held)
    return torch.maximum(body, _picks(call, indices, latest.ndim))


def _held(call: Call, indices: Indices) -> tuple[list[int], list[Tensor | None]]:
    """Return the axes along which computed indices choose, and indices that stay there."""
    free = [
        axis
        for axis, index in enumerate(indices)
        if index is not None and not bool(every(call.shadow(index).known, keep=False))
    ]
    held = [
        torch.zeros_like(index) if axis in free and index is not None else index
        for axis, index in enumerate(indices)
    ]
    return free, held


def _picks(call: Call, indices: Indices, ndim: int) -> Tensor:
    """Return labels of the indices themselves, laid along what they pick."""
    axes = [a for a, i in enumerate(indices) if i is not None]
    picks = join(*(call.shadow(i) for i in indices if i is not None)).latest
    shape = torch.broadcast_shapes(*(i.shape for i in indices if i is not None))
    place = axes[0] if _adjacent(axes) else 0
    after = ndim - len(axes) - place
    return picks.expand(shape).reshape([*([1] * place), *shape, *([1] * after)])


@rule("gather", "take_along_dim")
def _gathered(call: Call) -> Result:
    x, dim, index = call.args[:3]
    shadow = call.shadow(x)
    if fixed(call, index):
        return Shadow(shadow.latest.gather(dim, index), shadow.known.gather(dim, index))
    if x.ndim == 0:
        return join(shadow, call.shadow(index))
    return unknown(torch.maximum(_rows(call, shadow.latest, dim, index), call.shadow(index).latest))


def _rows(call: Call, latest: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return the greatest label that an index can reach along an axis."""
    bounds = call.run.bounds(index)
    if bounds is None:
        return greatest(latest, [dim])[_within(index, dim, latest.ndim)]
    return reached(latest, dim, bounds, index)


def _within(index: Tensor, dim: int, ndim: int) -> tuple[slice, ...]:
    return tuple(slice(None) if a == dim % ndim else slice(0, n) for a, n in enumerate(index.shape))


@rule("index_select")
def _selected(call: Call) -> Result:
    x, dim, index = call.args
    shadow = call.shadow(x)
    if fixed(call, index):
        return Shadow(call.func(shadow.latest, dim, index), call.func(shadow.known, dim, index))
    if x.ndim == 0:
        return join(shadow, Shadow(call.shadow(index).latest.amax(), NO))
    along = [-1 if a == dim % x.ndim else 1 for a in range(x.ndim)]
    picks = call.shadow(index).latest.reshape(along)
    bounds = call.run.bounds(index)
    if bounds is None or x.numel() == 0:
        return unknown(torch.maximum(greatest(shadow.latest, [dim]), picks))
    shape = call.out.shape
    low, high = (b.reshape(along).expand(shape) for b in bounds)
    rows = reached(shadow.latest, dim, (low, high), call.out)
    return unknown(torch.maximum(rows, picks))


@rule("take")
def _taken(call: Call) -> Result:
    x, index = call.args
    shadow = call.shadow(x)
    if fixed(call, index):
        return Shadow(shadow.latest.take(index), shadow.known.take(index))
    return unknown(call.shadow(index).latest.clamp(min=top(shadow.latest)))


@rule("embedding")
def _embedded(call: Call) -> Result:
    weight, index = call.args[:2]
    table, picks = call.shadow(weight), call.shadow(index)
    if top(table.latest) == NONE:
        known = picks.known[..., None] & every(table.known, keep=False)
        return Shadow(picks.latest[..., None], known)
    if fixed(call, index):
        return unknown(table.latest[index])
    row = greatest(table.latest, [0], keep=False)
    return unknown(torch.maximum(picks.latest[..., None], row))


def scattered(x: Shadow, dim: int, index: Tensor, source: Shadow, *, replaces: bool) -> Shadow:
    """Return labels after writing or adding elements at known indices along an axis."""
    latest = x.latest.clone(memory_format=torch.contiguous_format)
    known = x.known.clone(memory_format=torch.contiguous_format)
    labels = source.latest.expand(source.latest.shape).to(latest.dtype)
    if labels.shape != index.shape:
        labels = labels[tuple(slice(0, n) for n in index.shape)] if labels.ndim else labels
    labels = labels.expand(index.shape).contiguous()
    if latest.ndim == 0:
        return join(x, unknown(labels.reshape(-1).amax())) if labels.numel() else x
    if replaces:
        latest.scatter_(dim, index, NONE)
    latest = _raised(latest, dim, index, labels)
    if replaces and source.known.ndim == 0:
        known.scatter_(dim, index, bool(source.known))
    else:
        known.scatter_(dim, index, False)  # noqa: FBT003 - the value that scatter_ writes
    return Shadow(latest, known)


def _raised(latest: Tensor, dim: int, index: Tensor, labels: Tensor) -> Tensor:
    wide = latest.to(torch.int32).scatter_reduce(dim, index, labels.to(torch.int32), "amax")
    return wide.to(latest.dtype)


@rule("scatter", "scatter_add", "scatter_reduce")
def _scattered(call: Call) -> Result:
    x, dim, index = call.args[:3]
    value = _source(call)
    given = call.shadow(value)
    plain = call.name.__name__.rstrip("_") == "scatter" and call.kwargs.get("reduce") is None
    source = Shadow(given.latest, given.known if given.known.ndim == 0 else NO)
    if fixed(call, index):
        return scattered(call.shadow(x), dim, index, source, replaces=plain)
    labels = given.latest
    if labels.ndim:
        labels = labels[tuple(slice(0, n) for n in index.shape)]
    labels = torch.maximum(labels, call.shadow(index).latest).expand(index.shape)
    if x.ndim == 0:
        return call.mixed()
    latest = call.shadow(x).latest.clone(memory_format=torch.contiguous_format)
    part = latest[_within(index, dim, x.ndim)]
    part.copy_(torch.maximum(part, greatest(labels, [dim])))
    return unknown(latest)


def _source(call: Call) -> Value:
    for name in ("src", "value"):
        if call.has(name):
            return call[name]
    return None


@rule("index_add", "index_copy", "index_fill", "index_reduce")
def _along(call: Call) -> Result:
    x, dim, index = call.args[:3]
    value = call.args[3] if len(call.args) > 3 else call["value"]
    shadow, given = call.shadow(x), call.shadow(value)
    if x.ndim == 0:
        return call.mixed()
    name = call.name.__name__.rstrip("_")
    shape = [index.numel() if a == dim % x.ndim else n for a, n in enumerate(x.shape)]
    labels = given.latest.reshape(shape) if given.latest.ndim else given.latest.expand(shape)
    picks = call.shadow(index).latest.reshape(
        [-1 if a == dim % x.ndim else 1 for a in range(x.ndim)]
    )
    if fixed(call, index):
        where = index.reshape([-1 if a == dim % x.ndim else 1 for a in range(x.ndim)])
        source = Shadow(labels, NO)
        replaces = name in {"index_copy", "index_fill"}
        return scattered(shadow, dim, where.expand(shape), source, replaces=replaces)
    labels = torch.maximum(labels, picks)
    return unknown(torch.maximum(shadow.latest, greatest(labels, [dim])))


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def _put(call: Call) -> Result:
    x, indices, values = call.args[:3]
    adds = bool(call["accumulate"])
    given = [i for i in indices if i is not None]
    if len(given) == 1 and _is_mask(given[0]) and values.numel() == 1 and not adds:
        return _masked_put(call, x, given[0], values)
    shadow = call.shadow(x)
    places = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    if fixed(call, *indices):
        hit = torch.ops.aten.index(places, indices)
        source = call.shadow(values)
        labels = source.latest.broadcast_to(hit.shape).reshape(-1)
        constants = bool(every(source.known, keep=False))
        flat = Shadow(shadow.latest.reshape(-1), shadow.known.reshape(-1))
        found = scattered(
            flat,
            0,
            hit.reshape(-1),
            Shadow(labels, torch.tensor(constants)),
            replaces=not adds,
        )
        return Shadow(found.latest.reshape(x.shape), found.known.reshape(x.shape))
    if any(_is_mask(i) for i in given):
        return call.mixed()
    free, held = _held(call, indices)
    sizes = [1 if a in free else n for a, n in enumerate(x.shape)]
    places = torch.arange(math.prod(sizes), device=x.device).reshape(sizes)
    hit = torch.ops.aten.index(places, held)
    labels = torch.maximum(call.shadow(values).latest, _picks(call, indices, x.ndim))
    labels = labels.broadcast_to(hit.shape).reshape(-1).to(torch.int32)
    written = torch.full((places.numel(),), NONE, dtype=torch.int32, device=x.device)
    written = written.scatter_reduce(0, hit.reshape(-1), labels, "amax").reshape(sizes)
    return unknown(torch.maximum(shadow.latest, written.to(shadow.latest.dtype)))


def _masked_put(call: Call, x: Tensor, mask: Tensor, values: Tensor) -> Shadow:
    """Follow ``x[mask] = value``: a choice in every place."""
    front = next(a for a, i in enumerate(call.args[1]) if i is not None)
    shape = [*([1] * front), *mask.shape, *([1] * (x.ndim - front - mask.ndim))]
    shadow = call.shadow(mask)
    chosen = Shadow(shadow.latest.reshape(shape), shadow.known.reshape(shape))
    value = values.reshape([1] * x.ndim)
    given = call.shadow(values)
    of_value = Shadow(given.latest.reshape(value.shape), given.known.reshape(value.shape))
    return choose(call, (mask.reshape(shape).bool(), chosen), (value, of_value), x)


@rule("put")
def _put_flat(call: Call) -> Result:
    x, index, source = call.args[:3]
    shadow = call.shadow(x)
    if not fixed(call, index):
        worst = max(top(call.shadow(source).latest), top(call.shadow(index).latest))
        return unknown(shadow.latest.clamp(min=worst))
    found = scattered(
        Shadow(shadow.latest.reshape(-1), shadow.known.reshape(-1)),
        0,
        index.reshape(-1) % max(x.numel(), 1),
        Shadow(call.shadow(source).latest.reshape(-1), NO),
        replaces=not call["accumulate"],
    )
    return Shadow(found.latest.reshape(x.shape), found.known.reshape(x.shape))


@rule("select_scatter", "slice_scatter", "diagonal_scatter", "as_strided_scatter")
def _view_put(call: Call) -> Result:
    """Follow what puts a tensor in the place of a view of another."""
    x, source = (call.shadow(given) for given in call.args[:2])
    rest = call.args[2:]
    return Shadow(
        call.func(x.latest.contiguous(), source.latest.contiguous(), *rest, **call.kwargs),
        call.func(x.known.contiguous(), source.known.contiguous(), *rest, **call.kwargs),
    )


@rule("nonzero", "argwhere", "nonzero_static", "masked_select", "unique_consecutive")
@rule("_unique", "_unique2", "unique_dim", "unique_dim_consecutive", "bincount")
def _shaped_by_values(call: Call) -> Result:
    tensors = call.tensors
    decide = tensors[1:2] if call.name.__name__ == "masked_select" else tensors
    rank = _shape_escapes(call, *decide)
    shadows = [call.shadow(x) for x in tensors]
    if call.run.freezes_routing and rank != NONE and call.name.__name__ != "masked_select":
        return call.mixed()
    if rank == NONE and all(bool(every(s.known, keep=False)) for s in shadows):
        return Shadow(torch.tensor(NONE), YES)
    if call.name.__name__ == "masked_select" and fixed(call, tensors[1]):
        mask = tensors[1]
        return Shadow(shadows[0].latest.masked_select(mask), shadows[0].known.masked_select(mask))
    return call.mixed()


@rule("repeat_interleave")
def _repeated(call: Call) -> Result:
    shadow = call.shadow(call.args[0])
    rank = _shape_escapes(call, call.args[0])
    constant = bool(every(shadow.known, keep=False))
    return Shadow(torch.tensor(rank), torch.tensor(constant))


@rule("masked_scatter", "masked_scatter_")
def _masked_scattered(call: Call) -> Result:
    """Elements of the source are consumed in order, so the place of each depends on the mask."""
    x, mask, source = call.args
    worst = max(top(call.shadow(source).latest), top(call.shadow(mask).latest))
    taken = Shadow(torch.tensor(worst, dtype=torch.int32), NO)
    chosen, before = call.shadow(mask), call.shadow(x)
    either = join(chosen, before, taken)
    exact = torch.where(mask, taken.latest, before.latest)
    latest = torch.where(chosen.known, exact, either.latest)
    return Shadow(latest, chosen.known & ~mask & before.known)
