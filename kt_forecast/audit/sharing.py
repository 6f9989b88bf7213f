"""Saves runs under the tracker: rows and time in one, two modes that do the same in one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from kt_forecast.audit.contract import Clock
from kt_forecast.audit.dependency.analysis import leaves, spread
from kt_forecast.audit.dependency.calls import tensors_in
from kt_forecast.audit.dependency.engine import detached
from kt_forecast.audit.dependency.escapes import eager
from kt_forecast.audit.dependency.labels import NEVER, thin
from kt_forecast.audit.proving import Proof, prove, row_count, tracked_as
from kt_forecast.audit.replacing import Clocks
from kt_forecast.audit.running import Call, Runner, Setting, kept, path_of, seeded

CONSTANTS = 2**24
"""Elements of constants that are compared by value at most."""


@dataclass(frozen=True)
class Crossed:
    """Clocks whose moments are ordered by row first, then by time.

    Attributes:
        pair: of inputs and outputs, as declared.
        clocks: the same, spread.
        first: the earliest moment of all.
        span: of moments that a row has.
        rows: the place of each row in the order.
    """

    pair: tuple[Clock, Clock]
    clocks: Clocks
    first: int
    span: int
    rows: Tensor


def crossed(
    clocks: Clocks, inputs: dict[str, Tensor], outputs: dict[str, Tensor], axis: int
) -> tuple[Crossed, Crossed] | None:
    """Return clocks under which no row may read a later one, and none an earlier one.

    What keeps to both keeps to the contract in time, and reads no other row.

    Args:
        clocks: of the contract, spread.
        inputs: tensors by name.
        outputs: by path.
        axis: the axis of rows.

    Returns:
        None where inputs or outputs have no rows.
    """
    known = {name: inputs[name] for name in clocks.available}
    count = row_count(known, axis)
    due = {path: outputs[path] for path in clocks.needed}
    if not due or count < 2 or any(x.shape[axis : axis + 1] != (count,) for x in known.values()):
        return None
    if any(y.shape[axis : axis + 1] != (count,) for y in due.values()):
        return None
    moments = [t for t in (*clocks.available.values(), *clocks.needed.values()) if t.numel()]
    first = min(int(t.min()) for t in moments)
    span = max(int(t.max()) for t in moments) - first + 1
    if span * count >= 2**62:
        return None

    def ordered(rows: Tensor) -> Crossed:
        place = spread(rows.reshape([1] * axis + [-1]) * span, torch.Size([1] * axis + [count]))

        def of(moments: Clock) -> Clock:
            return {name: _added(thin(t) - first, place) for name, t in moments.items()}

        pair = of(clocks.available), of(clocks.needed)
        spreads = (
            {name: spread(t, x[name].shape) for name, t in side.items()}
            for side, x in zip(pair, (inputs, outputs), strict=True)
        )
        return Crossed(pair, Clocks(*spreads), first, span, rows)

    up = torch.arange(count)
    return ordered(up), ordered(up.flip(0))


def _added(moments: Tensor, place: Tensor) -> Tensor:
    """Add what a row adds to moments, axes matched from the left."""
    axes = max(moments.ndim, place.ndim)
    moments, place = (x.reshape([*x.shape, *([1] * (axes - x.ndim))]) for x in (moments, place))
    return moments + place


def prove_rows_too(
    runner: Runner,
    inputs: dict[str, Tensor],
    outputs: dict[str, Tensor],
    clocks: Clocks,
    setting: Setting,
    axis: int,
) -> Proof | None:
    """Prove a contract in time, and that rows do not read each other, in two runs instead of three.

    Args:
        runner: runs the model.
        inputs: tensors by name.
        outputs: what it makes of them.
        clocks: of the contract, spread.
        setting: its mode is that of the run.
        axis: the axis of rows.

    Returns:
        The proof in time, or None where it does not hold in this way, whatever the reason.
    """
    both = crossed(clocks, inputs, outputs, axis)
    if both is None:
        return None
    found: Proof | None = None
    for order in both:
        proof = prove(
            runner, inputs, order.pair, order.clocks, setting, name=setting.mode, routing=False
        )
        if not proof.holds:
            return None
        if found is not None:
            return replace(
                found,
                conditions=list(dict.fromkeys([*found.conditions, *proof.conditions])),
                notes=list(dict.fromkeys([*found.notes, *proof.notes])),
                n_ops=found.n_ops + proof.n_ops,
            )
        labels = {path: _in_time(t, order, axis) for path, t in proof.labels.items()}
        state = {name: (t % order.span) + order.first for name, t in proof.state.items()}
        found = replace(proof, labels=labels, state=state)
    return found


def _in_time(labels: Tensor, order: Crossed, axis: int) -> Tensor:
    """Return labels without their rows; of another row there are none, as has been proved."""
    own = spread(order.rows.reshape([1] * axis + [-1]), labels.shape)
    return torch.where(labels // order.span == own, labels % order.span + order.first, NEVER)


class _OtherError(Exception):
    """A run is not the sequence of operations that it is compared with."""


class _Program(TorchDispatchMode):
    """The operations of a run, with their plain arguments, and which results go into which.

    Args:
        before: tensors that exist before the run, in an order of their own.
        like: a program to compare with, operation by operation.
    """

    def __init__(self, before: Iterable[Tensor], like: "_Program | None" = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.like = like
        self.steps: list[tuple[Any, ...]] = []
        self.constants: list[Tensor] = []
        self._places: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._count = 0
        for x in before:
            self._place(x)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operation returns
        """Run an operation and note it.

        Raises:
            _OtherError: it is not the next one of the program to compare with.
        """
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            raise _OtherError
        if func == torch.ops.aten.detach.default and args[0] in self._places:
            out = func(*args)
            self._places[out] = self._places[args[0]]
            return out
        step = (func, self.said(args), self.said(tuple(kwargs.items())))
        if self.like is not None and step not in self.like.steps[len(self.steps) :][:1]:
            raise _OtherError
        self.steps.append(step)
        out = func(*args, **kwargs)
        for x in tensors_in(out):
            if x not in self._places:
                self._place(x)
        return out

    def said(self, x: Any) -> Any:  # noqa: ANN401 - an argument
        """Return an argument in a form that can be compared: a tensor by where it comes from."""
        if isinstance(x, Tensor):
            found = self._places.get(x)
            return ("tensor", found if found is not None else self._constant(x))
        if isinstance(x, list | tuple):
            return tuple(self.said(part) for part in x)
        return (type(x), x)

    def _place(self, x: Tensor) -> None:
        self._places[x] = self._count
        self._count += 1

    def _constant(self, x: Tensor) -> int:
        """Number a tensor that no operation has made.

        Raises:
            _OtherError: its values are others than in the program to compare with.
        """
        i = len(self.constants)
        if self.like is not None:
            other = self.like.constants[i : i + 1]
            if not other or other[0].dtype != x.dtype or not torch.equal(other[0], x):
                raise _OtherError
        if sum(c.numel() for c in self.constants) + x.numel() > CONSTANTS:
            raise _OtherError
        self.constants.append(x.detach().clone())
        self._place(x)
        return int(self._places[x])


def same_program(
    runner: Runner, inputs: dict[str, Tensor], ways: Sequence[tuple[Call, Setting]]
) -> bool:
    """Return whether a model runs the same operations on the same tensors in several ways.

    What tracking says of one of them then holds for all: it depends on nothing else.

    Args:
        runner: runs the model.
        inputs: tensors by name.
        ways: calls and settings to compare, with the model's own weights.
    """
    first: _Program | None = None
    said = None
    try:
        for call, setting in ways:
            with kept(runner.model), runner.set(setting), seeded(runner.seed):
                given = detached(inputs)
                model = [*runner.model.parameters(), *runner.model.buffers()]
                program = _Program([*given.values(), *model], like=first)
                with torch.no_grad(), eager(), program:
                    with path_of(tracked_as(setting)):
                        out = call(given)
                    ends = {path: program.said(x) for path, x in leaves(out).items()}
            if first is not None and (ends != said or len(program.steps) != len(first.steps)):
                return False
            first, said = first or program, ends
    except Exception:  # noqa: BLE001 - of a model nothing is known; then each run is followed
        return False
    return True
