"""Steps that each name a few other steps, one by one, and read them.

What is named is copied for the steps that name it, a part of them at a time, and again for the
backward pass: none of the copies is kept. Which steps are named has no slope.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

NUMBERS_AT_ONCE = 2**26
"""Numbers that are copied at a time."""

Asking = Float[Tensor, "batch head time size"]
Asked = Float[Tensor, "batch head slot size"]
Places = Int[Tensor, "#batch #head time some"]
Weights = Float[Tensor, "batch head time some"]


def products(q: Asking, x: Asked, place: Places) -> Weights:
    """Return the product of each step's vector with each of those that it names."""
    found: Tensor = _Products.apply(q, x, place)  # type: ignore[no-untyped-call]
    return found


def blended(weight: Weights, x: Asked, place: Places) -> Asking:
    """Return the sum of the vectors that each step names, by their weights."""
    found: Tensor = _Blended.apply(weight, x, place)  # type: ignore[no-untyped-call]
    return found


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, x: Tensor, place: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(q, x, place)
        return _products(q, x, place)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        q, x, place = ctx.saved_tensors
        asking, asked, _ = ctx.needs_input_grad
        to_q = _blended(slope, x, place) if asking else None
        return to_q, _spread(slope, q, place, x) if asked else None, None


class _Blended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor, place: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(weight, x, place)
        return _blended(weight, x, place)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        weight, x, place = ctx.saved_tensors
        weighing, asked, _ = ctx.needs_input_grad
        to_weight = _products(slope, x, place) if weighing else None
        return to_weight, _spread(weight, slope, place, x) if asked else None, None


def _products(q: Tensor, x: Tensor, place: Tensor) -> Tensor:
    parts = _parts(x, q, place)
    return _joined([_picked(x, named).mul_(some[:, :, :, None]).sum(-1) for some, named in parts])


def _blended(weight: Tensor, x: Tensor, place: Tensor) -> Tensor:
    parts = _parts(x, weight, place)
    return _joined([_picked(x, named).mul_(some[..., None]).sum(3) for some, named in parts])


def _spread(weight: Tensor, q: Tensor, place: Tensor, x: Tensor) -> Tensor:
    """Return, for each that is named, the sum of the vectors of those that name it."""
    total = torch.zeros_like(x)

    for of_some, vectors, named in _parts(x, weight, q, place):
        given = of_some[..., None] * vectors[:, :, :, None]
        total.scatter_add_(2, _rows(x, named), given.flatten(2, 3))
    return total


def _parts(x: Tensor, *of_steps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield as many steps at a time as keeps to `NUMBERS_AT_ONCE`; what they name comes last."""
    each = x.shape[0] * x.shape[1] * x.shape[3] * of_steps[-1].shape[3]
    steps = max(NUMBERS_AT_ONCE // max(each, 1), 1)
    yield from zip(*(t.split(steps, 2) for t in of_steps), strict=True)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _picked(x: Tensor, place: Tensor) -> Tensor:
    """Return what stands at the places that each step names."""
    return x.gather(2, _rows(x, place)).unflatten(2, place.shape[2:])


def _rows(x: Tensor, place: Tensor) -> Tensor:
    return place.flatten(2)[..., None].expand(*x.shape[:2], -1, x.shape[3])
