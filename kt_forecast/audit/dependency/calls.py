"""What a rule sees of one operation, and where rules are registered."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils._pytree import tree_leaves

from kt_forecast.audit.dependency.labels import NONE, Shadow, greatest, join, thin, unknown

STRUCTURAL = -1e30
"""A known score at most this is a mask whatever a model may learn."""

WEAK = -9e3
"""A known score at most this masks as long as learned scores stay above it."""

Value = Tensor | float | int | bool | None


class Run(ABC):
    """What rules may ask of the run they are part of."""

    mask_at_most: float
    freezes_routing: bool

    @abstractmethod
    def shadow(self, x: Tensor) -> Shadow:
        """Return what is known of a tensor."""

    @abstractmethod
    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return between what the computed whole numbers of a tensor lie; None if not known."""

    @abstractmethod
    def write(self, x: Tensor, shadow: Shadow) -> None:
        """Record a write that the schema of an operation does not declare."""

    @abstractmethod
    def escape(self, rank: int, what: str) -> None:
        """Record that data left torch."""

    @abstractmethod
    def number(self, x: float) -> int:
        """Return the rank that a plain number carries."""

    @abstractmethod
    def weak_mask(self, value: float) -> None:
        """Record that a finite mask is all that hides something."""

    @abstractmethod
    def hides(self, x: Tensor) -> None:
        """Record that elements of a result were taken for masks although something was added."""

    @abstractmethod
    def routed(self, rank: int, what: str) -> None:
        """Record that computed indices were taken as fixed."""

    @abstractmethod
    def note(self, what: str) -> None:
        """Record something that the reader of a verdict should know."""


class Call:
    """One operation that has run: its arguments, its outputs, and their shadows.

    Args:
        run: the run that it is part of.
        func: the operation.
        args: its positional arguments; what is overwritten in place stands here as it was before.
        kwargs: its other arguments.
        out: what it returned.
    """

    __slots__ = ("args", "func", "kwargs", "out", "run")

    def __init__(
        self,
        run: Run,
        func: OpOverload,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        out: Any,  # noqa: ANN401 - whatever an operation returns
    ) -> None:
        self.run, self.func, self.args, self.kwargs, self.out = run, func, args, kwargs, out

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - whatever an operation takes
        """Return the value of an argument by its name in the schema, or its default."""
        if name in self.kwargs:
            return self.kwargs[name]
        position, default = _arguments(self.func)[name]
        return self.args[position] if position < len(self.args) else default

    def has(self, name: str) -> bool:
        """Return whether the schema has an argument of this name."""
        return name in _arguments(self.func)

    @property
    def name(self) -> OpOverloadPacket:
        """The operation without its overload."""
        return self.func.overloadpacket

    @property
    def outs(self) -> list[Tensor]:
        """The tensors that it returned."""
        return tensors_in(self.out)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among its arguments."""
        return tensors_in((self.args, self.kwargs))

    def shadow(self, x: Value) -> Shadow:
        """Return what is known of an argument; a plain number is a constant."""
        if isinstance(x, Tensor):
            return self.run.shadow(x)
        rank = NONE if x is None or isinstance(x, bool) else self.run.number(float(x))
        return Shadow(torch.tensor(rank, dtype=torch.int16), torch.tensor(rank == NONE))

    def masked(self, x: Tensor, shadow: Shadow | None = None) -> Tensor:
        """Return which elements are known masks: so low that a softmax gives them nothing."""
        known = thin((shadow or self.shadow(x)).known)
        if not (x.is_floating_point() and bool(known.any())):
            return torch.zeros((), dtype=torch.bool, device=x.device)
        weak = known & (x <= WEAK) & (x > STRUCTURAL)
        if bool(weak.any()):
            self.run.weak_mask(float(x[weak.expand(x.shape)].max()))
        return known & (x <= self.run.mask_at_most)

    def hidden(self, constant: Tensor) -> None:
        """Record that a finite mask hides what a sum or choice would otherwise depend on."""
        if self.run.mask_at_most > STRUCTURAL and bool(constant.any()):
            for out in self.outs:
                self.run.hides(out)

    def mixed(self) -> Shadow:
        """Return what depends on everything that went in."""
        found = [greatest(self.shadow(x).latest.cpu(), keep=False) for x in self.tensors]
        dtype = found[0].dtype if found else torch.int16
        worst = max((int(x) for x in found), default=NONE)
        return unknown(torch.tensor(worst, dtype=dtype))

    def joined(self) -> Shadow:
        """Return what is computed element by element from all arguments."""
        leaves = tree_leaves((self.args, self.kwargs))
        values = [x for x in leaves if isinstance(x, Tensor | float | int)]
        if len(values) == 1 and isinstance(values[0], Tensor):
            return self.shadow(values[0])
        return join(*(self.shadow(x) for x in values if not isinstance(x, bool)))

    def axes(self, name: str, x: Tensor) -> list[int]:
        """Return the axes an argument names; all of them where it names none."""
        given = self[name] if self.has(name) else None
        if given is None or given == []:
            return list(range(x.ndim))
        return [a % max(x.ndim, 1) for a in (given if isinstance(given, list | tuple) else [given])]


def tensors_in(nest: Any) -> list[Tensor]:  # noqa: ANN401 - arguments or results of an operation
    """Return the tensors in tuples, lists and dictionaries."""
    if isinstance(nest, Tensor):
        return [nest]
    found: list[Tensor] = []
    if isinstance(nest, dict):
        nest = tuple(nest.values())
    if isinstance(nest, tuple | list):
        for part in nest:
            if isinstance(part, Tensor):
                found.append(part)
            elif isinstance(part, tuple | list | dict) and part:
                found += tensors_in(part)
    return found


Result = Shadow | Sequence[Shadow] | None
"""Shadows of what an operation returns; one for all of it; or None: mix everything."""

Rule = Callable[[Call], Result]

RULES: dict[OpOverloadPacket | OpOverload, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register what a function says of ATen operations; names unknown to this torch are skipped."""

    def register(found: Rule) -> Rule:
        for name in names:
            packet = getattr(torch.ops.aten, name, None)
            if packet is not None:
                RULES[packet] = found
        return found

    return register


@cache
def _arguments(func: OpOverload) -> dict[str, tuple[int, Any]]:
    arguments = func._schema.arguments  # noqa: SLF001 - the only description of an operation
    return {
        a.name: (position, a.default_value if a.has_default_value() else None)
        for position, a in enumerate(arguments)
    }
