"""Whether a call and its plain form are alike: on inputs of many kinds, in outputs and in slopes.

What is followed must be what runs. That two ways of computing agree everywhere cannot be seen from
runs; so the inputs are not only drawn, but also such as draws seldom give: all steps equal, few
different ones in turn, a future unlike the past.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from kt_forecast.audit.dependency.analysis import leaves
from kt_forecast.audit.replacing import Clocks, is_rounding, kinds, moved, replaced
from kt_forecast.audit.running import (
    GENERIC,
    GRADIENTS,
    OWN,
    Call,
    Outputs,
    Runner,
    Setting,
    kept,
    path_of,
    seeded,
    tensors,
)

PERIODS = (1, 2, 3)
"""Different steps of inputs whose steps repeat; one: all steps are equal."""

SHARES = (2, 5)
"""The beginning of a sequence is compared too: one of so many parts of it."""

PARTS = 4
"""Futures are replaced at the beginnings of so many parts of the whole."""

Inputs = dict[str, Tensor]


@dataclass
class Likeness:
    """What a comparison found.

    Attributes:
        inputs: on which outputs were compared.
        slopes: of those on which slopes were compared too.
        unlike: the first input on which the two differ, and how; empty where they never do.
    """

    inputs: int = 0
    slopes: int = 0
    unlike: str = ""


def compared(
    runner: Runner,
    plain: Call,
    inputs: Inputs,
    clocks: Sequence[Clocks],
    axes: dict[str, int],
    modes: Sequence[str],
    *,
    double: bool,
) -> Likeness:
    """Compare a call with its plain form.

    Args:
        runner: runs the call.
        plain: the other form.
        inputs: tensors by name.
        clocks: when they are known.
        axes: their axes of time.
        modes: in which the model runs.
        double: whether it runs in double precision.
    """
    found = Likeness()
    other = Runner(runner.model, plain, runner.seed)
    for said, changed, setting, steep in _trials(runner, inputs, clocks, axes, modes):
        way = replace(setting, double=double)
        try:
            own = runner(changed, way)
        except Exception:  # noqa: BLE001, S112 - a model may refuse what it was not made for
            continue
        if not _agree(own, partial(other, changed, way)):
            found.unlike = said
            return found
        found.inputs += 1
        if not steep:
            continue
        try:
            own = _slopes(runner, runner.call, changed, way)
        except Exception:  # noqa: BLE001, S112 - a model need not have slopes
            continue
        if not _agree(own, partial(_slopes, runner, plain, changed, way)):
            found.unlike = f"{said}, in slopes"
            return found
        found.slopes += bool(own)
    return found


def _agree(own: Outputs, form: Callable[[], Outputs]) -> bool:
    """Return whether another form gives the same, up to rounding."""
    try:
        found = form()
    except Exception:  # noqa: BLE001 - the other form runs where this one does not
        return False
    if found.keys() != own.keys():
        return False
    everywhere = {p: torch.ones(y.shape, dtype=torch.bool) for p, y in own.items()}
    far = moved(found, own, everywhere)
    return far is None or is_rounding(found, own, far)


def _slopes(runner: Runner, call: Call, inputs: Inputs, setting: Setting) -> Outputs:
    """Return the slopes of a sum of all outputs, each weighed by a number drawn for it."""
    draw = torch.Generator().manual_seed(runner.seed)
    way = replace(setting, path=GRADIENTS)
    with kept(runner.model), runner.set(way), seeded(runner.seed), path_of(way, runner.device):
        given = {n: x.detach().clone() for n, x in inputs.items()}
        if way.double:
            given = {n: x.double() if x.is_floating_point() else x for n, x in given.items()}
        by = {n: x.requires_grad_() for n, x in given.items() if x.is_floating_point()}
        by |= {f"weight {n}": p for n, p in runner.model.named_parameters() if p.requires_grad}
        outs = leaves(call({n: x.clone() for n, x in given.items()})).values()
        steep = [y for y in outs if isinstance(y, Tensor) and y.requires_grad]
        weighed = [(y * torch.randn(y.shape, generator=draw).to(y)).sum() for y in steep]
        if not by or not weighed:
            return {}
        total = torch.stack([y.to(weighed[0]) for y in weighed]).sum()
        slopes = torch.autograd.grad(total, list(by.values()), allow_unused=True)
        return tensors({n: g for n, g in zip(by, slopes, strict=True) if g is not None})


def _trials(
    runner: Runner,
    inputs: Inputs,
    clocks: Sequence[Clocks],
    axes: dict[str, int],
    modes: Sequence[str],
) -> Iterator[tuple[str, Inputs, Setting, bool]]:
    """Yield inputs in words, the inputs, how to run them, and whether slopes are compared too."""
    draw = torch.Generator().manual_seed(runner.seed)
    first = Setting(modes[0])
    for mode in modes:
        yield f"as given in {mode}", inputs, Setting(mode), True
    clocked = [n for n in inputs if any(n in c.available for c in clocks)]
    words = list(dict.fromkeys(kind for n in clocked for kind in kinds(inputs[n])))
    for i, kind in enumerate(words):
        weights = OWN if i % 2 else GENERIC
        whole = {n: torch.ones_like(inputs[n], dtype=torch.bool) for n in clocked}
        changed = {n: replaced(inputs[n], whole[n], kind, draw) for n in clocked}
        yield f"{kind} in all steps", inputs | changed, replace(first, weights=weights), i == 0
    for period in PERIODS if axes else ():
        turns = {n: _in_turn(inputs[n], axis, period) for n, axis in axes.items()}
        said = f"{period} different step{'s' * (period > 1)} in turn"
        yield said, inputs | turns, first, period == 2
    for part in SHARES if axes else ():
        fewer = {n: inputs[n].narrow(a, 0, 1 + inputs[n].shape[a] // part) for n, a in axes.items()}
        yield f"one of {part} parts of the steps", inputs | fewer, first, False
    for clock in clocks:
        ticks = clock.ticks.tolist()
        for moment in sorted({ticks[len(ticks) * part // PARTS] for part in range(PARTS) if ticks}):
            late = {n: (t > moment).to(inputs[n].device) for n, t in clock.available.items()}
            changed = {n: replaced(inputs[n], where, words[0], draw) for n, where in late.items()}
            yield f"another future after moment {moment}", inputs | changed, first, False


def _in_turn(x: Tensor, axis: int, period: int) -> Tensor:
    """Return a tensor whose first steps repeat."""
    place = torch.arange(x.shape[axis], device=x.device) % period
    return x.index_select(axis, place)
