"""The abstract domain: what one tensor element may depend on.

An element carries the latest moment of all inputs it may depend on, and whether it is a known
constant. Moments are kept as ranks among all moments that occur, which are small integers; the
join of two elements is their maximum.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kt_forecast.audit.dependency.locate import Node

NEVER = torch.iinfo(torch.int64).min
"""The moment of what depends on no input that has one."""

NONE = -1
"""The rank of `NEVER`."""

NO, YES = torch.zeros((), dtype=torch.bool), torch.ones((), dtype=torch.bool)


class Moments:
    """Translates moments to ranks and back.

    Args:
        found: every moment that an input may have.
    """

    def __init__(self, found: Iterable[Tensor]) -> None:
        flat = [x.detach().reshape(-1).to("cpu", torch.int64) for x in found]
        values = torch.cat(flat).unique() if flat else torch.empty(0, dtype=torch.int64)
        self.values = values[values > NEVER]
        small = len(self.values) < torch.iinfo(torch.int16).max
        self.dtype = torch.int16 if small else torch.int32

    def ranks(self, moments: Tensor) -> Tensor:
        """Return the rank of each moment; `NONE` for `NEVER`."""
        ranks = torch.searchsorted(self.values, moments.to("cpu", torch.int64).contiguous())
        return ranks.masked_fill(moments.to("cpu") == NEVER, NONE).to(self.dtype)

    def moments(self, ranks: Tensor) -> Tensor:
        """Return the moment of each rank, int64."""
        values = torch.cat([torch.tensor([NEVER]), self.values])
        return values[ranks.to("cpu", torch.int64) + 1]

    def moment(self, rank: int) -> int:
        """Return the moment of one rank."""
        return NEVER if rank == NONE else int(self.values[rank])


class Shadow:
    """What is known of the elements of one tensor.

    Attributes:
        latest: rank of the latest moment each element may depend on; in the shape of the tensor.
        known: whether an element is a constant that neither inputs nor parameters can change
            (its ``latest`` is then `NONE`); in the shape of the tensor.
        node: the operation that made it, where operations are recorded.
    """

    __slots__ = ("known", "latest", "node")

    def __init__(self, latest: Tensor, known: Tensor, node: "Node | None" = None) -> None:
        self.latest = latest
        self.known = known
        self.node = node

    def expand(self, shape: Sequence[int]) -> "Shadow":
        """Return the shadow of this tensor broadcast to a shape."""
        return Shadow(self.latest.expand(shape), self.known.expand(shape), self.node)


def thin(x: Tensor) -> Tensor:
    """Return a broadcastable tensor with every repeated axis reduced to one entry.

    Labels repeat along channels, heads and rows; what is computed on thin labels costs no more
    than the labels that differ.
    """
    if x.numel() <= 1 or 0 not in x.stride():
        return x
    strides = zip(x.stride(), x.shape, strict=True)
    return x[tuple(slice(0, 1) if step == 0 and n > 1 else slice(None) for step, n in strides)]


def join(*shadows: Shadow) -> Shadow:
    """Return what an element depends on that is computed from one element of each, broadcast."""
    latest, known = thin(shadows[0].latest), thin(shadows[0].known)
    for other in shadows[1:]:
        latest = torch.maximum(latest, thin(other.latest))
        known = known & thin(other.known)
    return Shadow(latest, known)


def unknown(latest: Tensor) -> Shadow:
    """Return the shadow of computed values: none of them is a known constant."""
    return Shadow(latest, torch.zeros((), dtype=torch.bool, device=latest.device))


def greatest(x: Tensor, axes: Sequence[int] | None = None, *, keep: bool = True) -> Tensor:
    """Return the maximum over axes (all by default); `NONE` over nothing."""
    if x.ndim == 0:
        return x
    axes = list(range(x.ndim)) if axes is None else [a % x.ndim for a in axes]
    if not axes:
        return x
    thinned = thin(x)
    if thinned.numel() == 0:
        shape = [1 if a in axes else n for a, n in enumerate(x.shape)]
        found = torch.full(shape, NONE, dtype=x.dtype, device=x.device)
        return found if keep else found.reshape([n for a, n in enumerate(shape) if a not in axes])
    widths = [1 if a in axes else n for a, n in enumerate(x.shape)]
    found = thinned.amax(axes, keepdim=True).expand(widths)
    if keep:
        return found
    return found.reshape([n for a, n in enumerate(widths) if a not in axes])


def every(x: Tensor, axes: Sequence[int] | None = None, *, keep: bool = True) -> Tensor:
    """Return whether all are true over axes (all axes by default)."""
    return ~(greatest((~x).to(torch.int8), axes, keep=keep) > 0)


def has(x: Tensor) -> bool:
    """Return whether any entry is true."""
    return bool(thin(x).any())


def top(x: Tensor) -> int:
    """Return the greatest rank of all."""
    return int(thin(x).max()) if x.numel() else NONE
