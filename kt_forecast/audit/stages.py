"""Stages that compare whole runs: other lengths, other calls before, other rows, single steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kt_forecast.audit.axes import resized
from kt_forecast.audit.contract import Clock
from kt_forecast.audit.dependency.analysis import spread
from kt_forecast.audit.proving import row_count
from kt_forecast.audit.replacing import is_rounding, kinds, moved, replaced
from kt_forecast.audit.running import Outputs, Runner, Setting, kept, tensors
from kt_forecast.audit.search import Hit, first_line, repeatable


def other_lengths(
    runner: Runner,
    inputs: dict[str, Tensor],
    pair: tuple[Clock, Clock],
    axes: dict[str, int],
    outputs: dict[str, int],
    lengths: list[int],
    setting: Setting,
) -> tuple[list[Hit], list[int], str]:
    """Compare what is needed early in the whole with the same in the first steps alone.

    Args:
        runner: runs the model.
        inputs: tensors by name.
        pair: the contract's clocks.
        axes: time axis of each input that is cut.
        outputs: time axis of each output.
        lengths: numbers of steps to keep, falling; only what the first of them shows is a hit, for
            a model may be made for one length and be something else on far shorter ones.
        setting: evaluation, in double precision where the model has it.

    Returns:
        Hits, the lengths that could be compared, and why others could not.
    """
    whole = runner(inputs, setting)
    hits, ran, why = [], [], ""
    for length in lengths:
        part = resized(inputs, axes, length)
        try:
            found = runner(part, setting)
        except Exception as error:  # noqa: BLE001 - of a model nothing is known
            why = f"{type(error).__name__}: {first_line(error)}"
            continue
        removed = min(
            int(spread(t, inputs[name].shape).narrow(axes[name], length, 1).min())
            for name, t in pair[0].items()
            if name in axes
        )
        before, after, stays = {}, {}, {}
        for path, axis in outputs.items():
            y = found.get(path)
            if y is None or y.ndim <= axis or y.shape[axis] != length:
                why = f"output {path!r} does not follow the length"
                continue
            before[path] = whole[path].narrow(axis, 0, length)
            after[path] = y
            due = spread(pair[1].get(path, next(iter(pair[1].values()))), whole[path].shape)
            stays[path] = due.narrow(axis, 0, length) < removed
        if not stays:
            continue
        ran.append(length)
        far = moved(after, before, stays)
        differs = far is not None and not is_rounding(after, before, far)
        if differs and len(ran) > 1:
            why = f"{length} steps take another way than {ran[0]}"
        elif far is not None and differs:
            ticks = int(whole[far.path].shape[outputs[far.path]] - far.place[outputs[far.path]] - 1)
            kind = f"the first {length} steps alone"
            names = tuple(axes)
            hits.append(
                Hit(
                    names,
                    far.path,
                    far.place,
                    far.effect,
                    ticks,
                    removed,
                    kind,
                    setting,
                    inputs,
                    part,
                )
            )
            break
    return hits, ran, why


def replayed(
    runner: Runner, inputs: dict[str, Tensor], generator: torch.Generator, setting: Setting
) -> list[Hit]:
    """Compare a call with itself after another call.

    The other call gets new numbers; where the model refuses them (a code among numbers), values
    that occur, in another order.
    """
    with kept(runner.model), runner.set(setting):
        first = runner.run(inputs, setting)
        try:
            other = inputs | _others(inputs, generator)
            runner.run(other, setting)
        except Exception:  # noqa: BLE001 - of a model nothing is known
            other = inputs | _others(inputs, generator, "from elsewhere")
            runner.run(other, setting)
        again = runner.run(inputs, setting)
    everywhere = {p: torch.ones(y.shape, dtype=torch.bool) for p, y in first.items() if p in again}
    far = moved(again, first, everywhere)
    if far is None or is_rounding(again, first, far):
        return []
    kind = "another call in between"
    names = tuple(inputs)
    return [Hit(names, far.path, far.place, far.effect, 0, 0, kind, setting, inputs, other)]


def _others(
    inputs: dict[str, Tensor], generator: torch.Generator, kind: str = ""
) -> dict[str, Tensor]:
    """Return other numbers in the place of numbers."""
    return {
        name: replaced(x, torch.ones_like(x, dtype=torch.bool), kind or kinds(x)[0], generator)
        for name, x in inputs.items()
        if x.is_floating_point()
    }


def other_rows(
    runner: Runner,
    inputs: dict[str, Tensor],
    clocked: dict[str, Tensor],
    generator: torch.Generator,
    setting: Setting,
    axis: int,
    *,
    double: bool,
) -> tuple[list[Hit], int]:
    """Change all rows but one, each in turn: what belongs to it must stay.

    Args:
        runner: runs the model.
        inputs: tensors by name.
        clocked: those of them whose rows are changed.
        generator: of replacements.
        setting: how to run it.
        axis: the axis of rows.
        double: whether the model can run in double precision.

    Returns:
        The first hit, and how many replacements were tried.
    """
    rows, trials = row_count(clocked, axis), 0
    places = torch.arange(rows).reshape([1] * axis + [-1])
    with runner.held(setting) as run:
        base = run(inputs)
        for victim in range(rows):
            changed = {}
            for name, x in clocked.items():
                if x.ndim > axis and x.shape[axis] == rows:
                    others = spread(places != victim, x.shape)
                    changed[name] = replaced(x, others, kinds(x)[0], generator)
            after = run(inputs | changed)
            trials += 1
            stays = {
                path: spread(places == victim, y.shape)
                for path, y in base.items()
                if y.ndim > axis and y.shape[axis] == rows
            }
            far = moved(after, base, stays)
            if far is None:
                continue
            hit = Hit(
                ("another row",), far.path, far.place, far.effect, 0, victim, "other rows replaced",
                setting, inputs, inputs | changed,
            )  # fmt: skip
            if _stands(runner, hit, stays, after, base, double=double):
                return [hit], trials
    return [], trials


def _stands(
    runner: Runner,
    hit: Hit,
    stays: dict[str, Tensor],
    after: Outputs,
    base: Outputs,
    *,
    double: bool,
) -> bool:
    setting = hit.setting
    if not repeatable(runner, hit):
        return False
    if double and not setting.double:
        setting = Setting(setting.mode, setting.weights, setting.path, double=True)
        with kept(runner.model):
            base, after = runner(hit.before, setting), runner(hit.after, setting)
    far = moved(after, base, stays)
    return far is not None and not is_rounding(after, base, far)


def streamed(
    runner: Runner, x: Tensor, axis: int, setting: Setting
) -> tuple[Outputs, Outputs] | str:
    """Run a sequence whole and step by step, by ``step(x, state)`` or ``init_state(batch)``.

    Returns:
        The outputs of both, or why they could not be compared.
    """
    model: Any = runner.model
    by_step = callable(getattr(model, "step", None))
    by_state = callable(getattr(model, "init_state", None))
    if not (by_step or by_state):
        return "the model has no step form"
    x = x.double() if setting.double else x
    try:
        with kept(model), runner.set(setting), torch.no_grad():
            whole = first_tensor(model(x))
            parts = _steps(model, x, axis) if by_step else _pieces(model, x, axis)
    except Exception as error:  # noqa: BLE001 - of a model nothing is known
        return f"its step form could not be called ({type(error).__name__}: {first_line(error)})"
    if parts.shape != whole.shape:
        return f"its steps give {list(parts.shape)}, the whole {list(whole.shape)}"
    return tensors(whole), tensors(parts)


def _steps(model: Any, x: Tensor, axis: int) -> Tensor:  # noqa: ANN401 - has a step form
    found, state = [], None
    for step in x.unbind(axis):
        y, state = model.step(step, state)
        found.append(y)
    return torch.stack(found, axis)


def _pieces(model: Any, x: Tensor, axis: int) -> Tensor:  # noqa: ANN401 - has a state
    found, state = [], model.init_state(x.shape[0])
    for step in x.split(1, axis):
        y, state = model(step, state)
        found.append(y)
    return torch.cat(found, axis)


def first_tensor(out: Any) -> Tensor:  # noqa: ANN401 - whatever a model returns
    """Return the first tensor of what a model returns."""
    return out if isinstance(out, Tensor) else next(iter(tensors(out).values()))


def wrapped(model: Any) -> tuple[nn.Module, Callable[..., Any]]:  # noqa: ANN401 - a module or not
    """Return a module whose state is kept, and what is called; a plain function has no state."""
    return (model, model) if isinstance(model, nn.Module) else (nn.Identity(), model)
