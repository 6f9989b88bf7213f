"""Other values for what is known too late, and whether they move what was needed before."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kt_forecast.audit.contract import OUTPUT, Clock, ContractError
from kt_forecast.audit.dependency.analysis import spread

NUMBERS = ("noise", "large noise", "from elsewhere", "zero")
"""Kinds of replacement of floating-point numbers."""

LARGE = 100.0
"""How large replaced numbers of the second kind are, relative to the spread of the originals."""

ROUNDING = 1e4
"""Units of rounding of the greatest number around that a result may be off by."""

COARSE = 2.0
"""The same where a unit is large: half precision rounds each result once, and sums exactly."""


HALF_UNIT = 1e-4
"""A unit of rounding larger than this is one of half precision."""


@dataclass(frozen=True)
class Clocks:
    """A pair of clocks, spread to the shapes of inputs and outputs.

    Attributes:
        available: moment each element of a clocked input is known from.
        needed: moment each element of a judged output is needed for.
    """

    available: dict[str, Tensor]
    needed: dict[str, Tensor]

    @property
    def ticks(self) -> Tensor:
        """All moments at which something is needed."""
        found = [x.reshape(-1) for x in self.needed.values()]
        return torch.cat(found).unique() if found else torch.empty(0, dtype=torch.int64)


def spread_clocks(
    pair: tuple[Clock, Clock], inputs: dict[str, Tensor], outputs: dict[str, Tensor]
) -> Clocks:
    """Return clocks in the shapes of the tensors they are of.

    A clock of ``output`` is that of the first output where a model returns several.

    Raises:
        ContractError: a clock names nothing, or does not fit the shape of what it names.
    """
    available, needed = pair
    return Clocks(
        {name: _fitted(name, x, inputs) for name, x in available.items()},
        {
            _path(path, outputs): _fitted(_path(path, outputs), x, outputs)
            for path, x in needed.items()
        },
    )


def _path(path: str, outputs: dict[str, Tensor]) -> str:
    if path == OUTPUT and path not in outputs and outputs:
        return next(iter(outputs))
    return path


def _fitted(name: str, moments: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    if name not in tensors:
        raise ContractError(f"the contract has a clock for {name!r}; there are {sorted(tensors)}")
    x = tensors[name]
    try:
        return spread(moments.cpu().long(), x.shape).contiguous()
    except RuntimeError:
        raise ContractError(
            f"the clock of {name!r} has the shape {list(moments.shape)}, which does not spread "
            f"from the left to its shape {list(x.shape)}"
        ) from None


def kinds(x: Tensor) -> tuple[str, ...]:
    """Return how a tensor can be replaced."""
    if x.is_floating_point() or x.is_complex():
        return NUMBERS
    if x.dtype == torch.bool:
        return ("flipped",)
    return ("drawn", "from elsewhere")


def replaced(x: Tensor, where: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Return a tensor with other values of its kind in some places.

    Args:
        x: the original.
        where: the places, in its shape.
        kind: one of `kinds`; of another kind of tensor, its own first.
        generator: of random values.
    """
    if kind not in kinds(x):
        kind = kinds(x)[0]
    return torch.where(where.to(x.device), _MAKE[kind](x, generator).to(x), x)


def _noise(x: Tensor, generator: torch.Generator, scale: float = 1.0) -> Tensor:
    finite = x[x.isfinite()]
    width = float(finite.std()) if finite.numel() > 1 else 1.0
    drawn = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return x + (drawn * scale * max(width, 1e-3)).to(x)


def _drawn(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return another number in each place, from the range of those that occur."""
    low, high = (int(x.min()), int(x.max())) if x.numel() else (0, 0)
    if 0 <= low <= high <= 1:
        return 1 - x
    if low == high:
        return x - 1 if low > 0 else x + 1
    further = torch.randint(1, high - low + 1, x.shape, generator=generator).to(x.device)
    return low + (x.long() - low + further) % (high - low + 1)


def _elsewhere(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the values in another order, so that each is one that occurs."""
    order = torch.randperm(x.numel(), generator=generator).to(x.device)
    return x.reshape(-1)[order].reshape(x.shape)


_MAKE: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "noise": _noise,
    "large noise": lambda x, generator: _noise(x, generator, LARGE),
    "from elsewhere": _elsewhere,
    "zero": lambda x, _: torch.zeros_like(x),
    "flipped": lambda x, _: ~x,
    "drawn": _drawn,
}


@dataclass(frozen=True)
class Moved:
    """How far outputs moved that had to stay.

    Attributes:
        path: the output that moved most.
        effect: by how much.
        place: where.
    """

    path: str
    effect: float
    place: tuple[int, ...]


def moved(
    after: dict[str, Tensor], before: dict[str, Tensor], stays: dict[str, Tensor]
) -> Moved | None:
    """Return what moved most of what had to stay; None if nothing did, bit by bit."""
    worst: Moved | None = None
    for path, where in stays.items():
        change = change_of(after[path], before[path]).masked_fill(~where.cpu(), 0.0)
        effect = float(change.max()) if change.numel() else 0.0
        if effect > 0.0 and (worst is None or effect > worst.effect):
            index = torch.unravel_index(change.argmax(), change.shape)
            worst = Moved(path, effect, tuple(int(i) for i in index))
    return worst


def change_of(after: Tensor, before: Tensor) -> Tensor:
    """Return by how much each element differs; infinite where only one of the two is a number."""
    after, before = after.cpu(), before.cpu()
    if after.shape != before.shape:
        return torch.full(before.shape, torch.inf, dtype=torch.float64)
    if not before.is_floating_point():
        return (after != before).double()
    same = (after == before) | (after.isnan() & before.isnan())
    change = (after.double() - before.double()).abs().nan_to_num(nan=torch.inf)
    return change.masked_fill(same, 0.0)


def is_rounding(after: dict[str, Tensor], before: dict[str, Tensor], moved: Moved) -> bool:
    """Return whether a change is no more than rounding in the precision of the outputs."""
    x = before[moved.path]
    if not x.is_floating_point():
        return False
    sizes = [
        float(t[t.isfinite()].abs().max()) for t in (x, after[moved.path]) if t.isfinite().any()
    ]
    unit = torch.finfo(x.dtype).eps
    units, least = (ROUNDING, 1.0) if unit < HALF_UNIT else (COARSE, 0.0)
    return moved.effect <= units * unit * max([least, *sizes])
