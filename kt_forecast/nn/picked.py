"""Steps that each name a few other steps, one by one, and read them.

What is named is copied for the steps that name it, a part of them at a time, and none of the copies
is kept. The backward pass needs none: there a step's names are a bag of rows of a table, which is
summed, and whose slopes are added up, in one operation each. Which steps are named has no slope.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

NUMBERS_AT_ONCE = 2**27
"""Numbers that are formed at a time."""

Asking = Float[Tensor, "batch head time size"]
Asked = Float[Tensor, "batch head slot size"]
Places = Int[Tensor, "#batch #head time some"]
Weights = Float[Tensor, "batch head time some"]


def products(q: Asking, x: Asked, place: Places) -> Weights:
    """Return the product of each step's vector with each of those that it names."""
    found: Tensor = _Products.apply(q, x.contiguous(), place)  # type: ignore[no-untyped-call]
    return found


def blended(weight: Weights, x: Asked, place: Places) -> Asking:
    """Return the sum of the vectors that each step names, by their weights."""
    found: Tensor = _Blended.apply(weight, x.contiguous(), place)  # type: ignore[no-untyped-call]
    return found


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, x: Tensor, place: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(q, x, place)
        found = [asking[..., None, :] @ named.mT for asking, named in _parts(q, x, place)]
        return joined_parts(found)[..., 0, :]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        q, x, place = ctx.saved_tensors
        to_q, to_x, _ = _slopes(slope, x, place, q, (False, ctx.needs_input_grad[1]))
        return to_q, to_x, None


class _Blended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor, place: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(weight, x, place)
        found = [some[..., None, :] @ named for some, named in _parts(weight, x, place)]
        return joined_parts(found)[..., 0, :]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        weight, x, place = ctx.saved_tensors
        asking, asked, _ = ctx.needs_input_grad
        _, to_x, to_weight = _slopes(weight, x, place, slope, (asking, asked))
        return to_weight, to_x, None


def _slopes(
    weight: Tensor, x: Tensor, place: Tensor, slope: Tensor, needed: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the blended vectors, and the slopes of what they are blended by and of.

    Sums are formed in single precision at least, the only one that bags have everywhere.

    Args:
        weight: of each vector that a step names.
        x: the vectors.
        place: of those that each step names.
        slope: of what is blended.
        needed: whether the slopes of ``weight`` are, and those of ``x``.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    by = weight.detach().reshape(-1, weight.shape[3]).to(wide).requires_grad_(needed[0])
    table = x.detach().view(-1, x.shape[3]).to(wide).requires_grad_(needed[1])
    with torch.enable_grad():
        bags = _rows(x, place).expand(weight.shape).reshape(by.shape)
        found = F.embedding_bag(bags, table, per_sample_weights=by, mode="sum")
    wanted = [t for t in (table, by) if t.requires_grad]
    slope = slope.reshape(found.shape).to(wide)
    given = iter(torch.autograd.grad(found, wanted, slope) if wanted else ())
    to_x = next(given).view(x.shape).to(x.dtype) if needed[1] else None
    to_weight = next(given).view(weight.shape).to(weight.dtype) if needed[0] else None
    return found.detach().view(*weight.shape[:3], -1).to(x.dtype), to_x, to_weight


def _parts(of_steps: Tensor, x: Tensor, place: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield as many steps at a time as keeps to `NUMBERS_AT_ONCE`, and what they name."""
    each = x.shape[0] * x.shape[1] * x.shape[3] * place.shape[3]
    steps = max(NUMBERS_AT_ONCE // max(each, 1), 1)
    for some, named in zip(of_steps.split(steps, 2), place.split(steps, 2), strict=True):
        yield some, _picked(x, named)


def joined_parts(parts: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Return what was found of some steps at a time as one tensor."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _picked(x: Tensor, place: Tensor) -> Tensor:
    """Return what stands at the places that each step names."""
    if place.shape[:2] == (1, 1):
        return x.index_select(2, place.flatten()).unflatten(2, place.shape[2:])
    rows = _rows(x, place)
    return x.view(-1, x.shape[3]).index_select(0, rows.flatten()).view(*rows.shape, -1)


def _rows(x: Tensor, place: Tensor) -> Tensor:
    """Return where places stand if the slots of all batches and heads are one table."""
    batch, heads, slots, _ = x.shape
    begin = torch.arange(batch * heads, device=x.device).view(batch, heads, 1, 1) * slots
    return begin + place
