"""The proof: what tracking every operation says under a contract, and where an excess begins."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kt_forecast.audit.contract import Clock
from kt_forecast.audit.dependency import Escape, Origin, Tracked, track
from kt_forecast.audit.dependency.analysis import spread
from kt_forecast.audit.replacing import Clocks
from kt_forecast.audit.running import EAGER, GRADIENTS, TRAINING, Runner, Setting, kept, path_of


@dataclass(frozen=True)
class Excess:
    """An output that may depend on more than its contract allows.

    Attributes:
        path: the output.
        ticks: how many moments beyond the need it may reach, at most.
        moments: needed moments at which it does.
        n: how many elements do.
    """

    path: str
    ticks: int
    moments: tuple[int, ...]
    n: int


@dataclass
class Proof:
    """What tracking found in one mode.

    Attributes:
        name: what was tracked: the mode, the length, rows.
        excess: outputs that may depend on too much; empty is a proof under ``conditions``.
        conditions: what the labels rest on.
        gaps: why labels cannot be trusted to cover everything; one sentence each.
        notes: what the reader should know.
        state: what the model keeps between calls, and how late it is.
        n_ops: operations followed.
        labels: by output, the latest moment of each element.
        escapes: the values behind ``gaps``.
        failed: why the run could not be followed at all; empty if it could.
        origins: by output, where an excess begins.
    """

    name: str
    excess: list[Excess] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    escapes: list[Escape] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    state: dict[str, int] = field(default_factory=dict)
    n_ops: int = 0
    labels: dict[str, Tensor] = field(default_factory=dict)
    failed: str = ""
    origins: dict[str, list[Origin]] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether it proves the contract, under its conditions."""
        return not (self.excess or self.gaps or self.failed)


def prove(
    runner: Runner,
    inputs: dict[str, Tensor],
    pair: tuple[Clock, Clock],
    clocks: Clocks,
    setting: Setting,
    *,
    name: str,
    routing: bool = True,
    exact: bool = False,
) -> Proof:
    """Track a run, and say whether its outputs keep to a contract.

    Inputs without a clock are known before everything else. Where outputs do not keep to it, they
    are taken as they are, then computed indices too; what that rests on is among the conditions.

    Args:
        runner: runs the model.
        inputs: tensors by name.
        pair: the contract's clocks, as declared (labels that repeat cost less).
        clocks: the same, spread to inputs and outputs.
        setting: its mode is that of the run.
        name: for the report.
        routing: whether computed indices may be taken as they are.
        exact: whether labels are wanted as early as they can be, also where later ones do.
    """
    fixed = tuple(name for name in inputs if name not in pair[0])
    before = min((int(t.min()) for t in pair[0].values() if t.numel()), default=0) - 1
    available = pair[0] | {name: torch.tensor(before) for name in fixed}
    attempts: list[dict[str, Any]] = [{}]
    attempts += [{"constants": fixed}] if fixed else []
    attempts += [{"freeze_routing": True, "constants": fixed}] if routing else []
    first: Proof | None = None
    for options in attempts:
        try:
            enough = None if exact else clocks.needed
            tracked = _tracked(runner, inputs, available, setting, enough=enough, **options)
        except Exception as error:  # noqa: BLE001 - of a model nothing is known
            return first or Proof(name, failed=f"{type(error).__name__}: {str(error)[:200]}")
        proof = _read(tracked, clocks, name, before)
        first = first or proof
        if not proof.excess:
            return proof
        if options.get("freeze_routing") or not (fixed or _chooses(tracked)):
            break
    return first or Proof(name, failed="nothing was tracked")


def locate(
    runner: Runner,
    inputs: dict[str, Tensor],
    pair: tuple[Clock, Clock],
    clocks: Clocks,
    setting: Setting,
    only: str | None = None,
) -> dict[str, list[Origin]]:
    """Return where the excess of each output begins."""
    try:
        tracked = _tracked(runner, inputs, pair[0], setting, locate=True, only=only)
        return {path: tracked.origin(path, due) for path, due in clocks.needed.items()}
    except Exception:  # noqa: BLE001 - a leak without a place is still a leak
        return {}


def tracked_as(setting: Setting) -> Setting:
    """Return a setting as it is tracked: training records gradients."""
    trains = setting.mode == TRAINING and setting.path == EAGER
    return replace(setting, path=GRADIENTS) if trains else setting


def _tracked(
    runner: Runner,
    inputs: dict[str, Tensor],
    available: Clock,
    setting: Setting,
    **options: Any,  # noqa: ANN401
) -> Tracked:
    def call(inputs: dict[str, Tensor]) -> Any:  # noqa: ANN401 - whatever the model returns
        with path_of(tracked_as(setting)):
            return runner.plain(inputs)

    with kept(runner.model), runner.set(setting):
        return track(call, inputs, available, model=runner.model, seed=runner.seed, **options)


def _read(tracked: Tracked, clocks: Clocks, name: str, before: int) -> Proof:
    excess = []
    for path, due in clocks.needed.items():
        labels = tracked.outputs.get(path)
        if labels is None:
            return Proof(name, failed=f"output {path!r} was not among what was tracked")
        beyond = labels > due
        if bool(beyond.any()):
            ticks = int((labels[beyond] - due[beyond]).max())
            moments = due[beyond].unique().tolist()
            excess.append(Excess(path, ticks, tuple(moments), int(beyond.sum())))
    conditions = list(tracked.conditions)
    soonest = min((int(due.min()) for due in clocks.needed.values() if due.numel()), default=before)
    allowed = max(soonest, before)
    escapes = [escape for escape in tracked.escapes if escape.moment > allowed]
    conditions += [
        f"what every output may know steers the program at {escape.source} as it does here"
        for escape in tracked.escapes
        if escape.moment <= allowed
    ]
    conditions += [
        f"{op}, which has no rule, writes nothing but its outputs" for op in tracked.unknown
    ]
    return Proof(
        name=name,
        excess=excess,
        conditions=conditions,
        gaps=[str(escape) for escape in escapes],
        escapes=escapes,
        notes=list(tracked.notes),
        state=dict(tracked.state),
        n_ops=tracked.n_ops,
        labels={p: tracked.outputs[p] for p in clocks.needed},
    )


def _chooses(tracked: Tracked) -> bool:
    """Return whether a second look with indices held could say anything new."""
    return tracked.n_ops > 0


def row_clocks(
    inputs: dict[str, Tensor], outputs: dict[str, Tensor], axis: int
) -> list[tuple[tuple[Clock, Clock], Clocks]]:
    """Return clocks under which no row may read a later one, and none an earlier one.

    Args:
        inputs: tensors by name.
        outputs: by path.
        axis: the axis of rows.
    """
    rows = row_count(inputs, axis)
    names = [name for name, x in inputs.items() if x.ndim > axis and x.shape[axis] == rows]
    paths = [path for path, y in outputs.items() if y.ndim > axis and y.shape[axis] == rows]
    found = []
    for order in (torch.arange(rows), torch.arange(rows).flip(0)):
        moments = order.reshape([1] * axis + [-1])
        pair = (dict.fromkeys(names, moments), dict.fromkeys(paths, moments))
        available = {n: spread(moments, inputs[n].shape) for n in names}
        found.append(
            (pair, Clocks(available, {p: spread(moments, outputs[p].shape) for p in paths}))
        )
    return found


def row_count(inputs: dict[str, Tensor], axis: int) -> int:
    """Return how many rows a batch has."""
    return next((x.shape[axis] for x in inputs.values() if x.ndim > max(axis, 1)), 1)
