"""Which axis is time? Found by varying the length, and said, never assumed in silence."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kt_forecast.audit.contract import Contract, ContractError, with_axes
from kt_forecast.audit.running import Outputs, Runner, Setting

SHORTEST = 3
"""Steps that a sequence must have for its length to be varied."""

NAMED = 6
"""Tensors that a message names."""

NAMED_SIZES = ("chunk", "window", "patch", "block", "kernel", "dilat", "stride", "segment", "lag")
"""Parts of names of attributes that hold a number of steps."""


CONFIGURATIONS = ("config", "configs", "cfg", "args", "hparams", "settings")
"""Attributes that hold the settings a module was made with."""


@dataclass(frozen=True)
class Axes:
    """The time axes of a call.

    Attributes:
        inputs: time axis of each input that has one.
        outputs: time axis of each output that has one, and its length.
        how: how they were found, in one sentence.
        varies: whether the model takes another length.
    """

    inputs: dict[str, int]
    outputs: dict[str, tuple[int, int]]
    how: str
    varies: bool


def find_axes(
    runner: Runner, inputs: dict[str, Tensor], outputs: Outputs, axis: int | None
) -> Axes:
    """Return the time axes of inputs and outputs.

    Args:
        runner: runs the model.
        inputs: tensors by name.
        outputs: what the model makes of them.
        axis: the axis, if it was declared.

    Raises:
        ContractError: no output runs along the axis of the inputs.
    """
    for candidate in (1, 2) if axis is None else (axis,):
        found = _shortened(runner, inputs, outputs, candidate)
        if found:
            said = "declared"
            if axis is None and candidate == 2:
                raise ContractError(
                    f"time may be axis 2, whose length can be varied, or axis 1, whose length the "
                    f"model fixes: inputs are {_shapes(inputs)}; accepted is causal(axis=...)"
                )
            if axis is None:
                said = f"axis {candidate} was found by taking one step off; axis 0 holds rows"
            return Axes(_timed(inputs, candidate), found, said, varies=True)
    candidate = 1 if axis is None else axis
    timed = _timed(inputs, candidate)
    lengths = {inputs[name].shape[a] for name, a in timed.items()}
    along = {
        path: (candidate, y.shape[candidate])
        for path, y in outputs.items()
        if y.ndim > candidate and y.shape[candidate] in lengths
    }
    if not along:
        raise ContractError(
            f"no output has a time axis: inputs are {_shapes(inputs)}, outputs {_shapes(outputs)}; "
            "accepted is causal(axis=...), or clock(available=..., needed=...) for other shapes"
        )
    said = "declared" if axis is not None else "taken to be the second"
    return Axes(timed, along, f"{said}; the model takes no other length", varies=False)


def bound(contract: Contract, axes: Axes) -> Contract:
    """Return a contract along one time axis, bound to the axes found."""
    return with_axes(contract, axes.inputs, axes.outputs)


def resized(inputs: dict[str, Tensor], axes: dict[str, int], length: int) -> dict[str, Tensor]:
    """Return inputs with another number of steps: the first, or all of them again and again."""
    longest = max(inputs[name].shape[axis] for name, axis in axes.items())
    found = dict(inputs)
    for name, axis in axes.items():
        x = inputs[name]
        n = x.shape[axis]
        if n == longest:
            found[name] = x.index_select(axis, torch.arange(length, device=x.device) % n)
    return found


def along_clocks(available: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, int]:
    """Return the one axis along which all clocks of inputs run, by input; empty if none."""
    for axis in (1, 0, 2):
        clocked = [(inputs[name], moments) for name, moments in available.items()]
        if not clocked or any(moments.ndim <= axis for _, moments in clocked):
            continue
        steps = {x.shape[axis] for x, _ in clocked}
        if len(steps) == 1 and all(m.shape[axis] == x.shape[axis] for x, m in clocked):
            n = steps.pop()
            rows = clocked[0][0].shape[:axis]
            same = {k for k, x in inputs.items() if x.ndim > axis and x.shape[axis] == n}
            return {k: axis for k in same if k in available or inputs[k].shape[:axis] == rows}
    return {}


def harvested(model: nn.Module) -> dict[str, int]:
    """Return numbers of steps that a model's attributes name: chunks, windows, patches."""
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        for key, value in _attributes(module):
            for part in value if isinstance(value, tuple) else (value,):
                named = any(word in key.lower() for word in NAMED_SIZES)
                if named and type(part) is int and part > 1:
                    where = f"{name}.{key}" if name else key
                    found[where] = max(part, found.get(where, 0))
    return found


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what a module is made with: attributes of its own, and those of its configuration."""
    for key, value in vars(module).items():
        yield key, value
        if key in CONFIGURATIONS:
            parts = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
            yield from ((f"{key}.{name}", part) for name, part in parts.items())


def next_prime(n: int) -> int:
    """Return the least prime number that is at least ``n``."""
    while n < 2 or any(n % d == 0 for d in range(2, int(n**0.5) + 1)):
        n += 1
    return n


def _shortened(
    runner: Runner, inputs: dict[str, Tensor], outputs: Outputs, axis: int
) -> dict[str, tuple[int, int]]:
    """Return the axes of outputs that shrink with an axis of the inputs."""
    timed = _timed(inputs, axis)
    longest = max((inputs[name].shape[axis] for name in timed), default=0)
    if longest < SHORTEST:
        return {}
    try:
        shorter = runner(resized(inputs, timed, longest - 1), Setting())
    except Exception:  # noqa: BLE001 - of a model nothing is known
        return {}
    found = {}
    for path, y in outputs.items():
        other = shorter.get(path)
        if other is None or other.ndim != y.ndim:
            continue
        shrunk = [a for a, n in enumerate(y.shape) if other.shape[a] == n - 1]
        if len(shrunk) == 1:
            found[path] = (shrunk[0], y.shape[shrunk[0]])
    return found


def _timed(inputs: dict[str, Tensor], axis: int) -> dict[str, int]:
    """Return inputs with steps along an axis: neither facts nor masks of steps by steps."""
    least = max(axis, 1) if any(x.ndim > 1 for x in inputs.values()) else axis
    return {name: axis for name, x in inputs.items() if x.ndim > least and not _is_mask(x, inputs)}


def _is_mask(x: Tensor, inputs: dict[str, Tensor]) -> bool:
    square = x.ndim == 2 and x.shape[0] == x.shape[1] and len(inputs) > 1
    return square and any(o.ndim > 1 and o.shape[0] != x.shape[0] for o in inputs.values())


def _shapes(tensors: dict[str, Tensor]) -> str:
    said = [f"{name} {list(x.shape)}" for name, x in tensors.items()]
    return ", ".join([*said[:NAMED], *(["..."] if len(said) > NAMED else [])])
