"""The training step: a prediction that a loss weighs may not know the label it is weighed against.

The functions of torch that compute losses are watched: what goes into them as prediction and as
target is followed back to the inputs. A label that arrives through a training-only path is found
so, whatever shape predictions are brought into before.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kt_forecast.audit.contract import Clock, Contract
from kt_forecast.audit.dependency.analysis import leaves
from kt_forecast.audit.dependency.labels import NEVER
from kt_forecast.audit.nest import flattened
from kt_forecast.audit.proving import Excess, Proof, prove, row_count
from kt_forecast.audit.replacing import Clocks, spread_clocks
from kt_forecast.audit.running import TRAINING, Call, Runner, Setting

LOSSES = {
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "gaussian_nll_loss",
    "huber_loss",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
}

METHODS = ("loss", "compute_loss", "training_step")
"""Methods of a model that make a loss of a batch."""

LABEL_WORDS = ("label", "target", "answer", "response")
"""Parts of names of inputs that hold labels."""

PREDICTION, TARGET, RETURNED = "prediction", "target", "returned"
"""Paths of what is judged, of what it is weighed against, and of what the training step returns."""

OPEN = 2**60
"""The moment of what is weighed against nothing that has a clock."""


HALVES = 2
"""Moments of a training step to each of a contract along time, so that a label is one later."""


@dataclass(frozen=True)
class Step:
    """A training step.

    Attributes:
        call: from the inputs by name to what the step returns.
        how: which function that is.
    """

    call: Call
    how: str


def training_step(
    model: Any,  # noqa: ANN401 - a module, or anything that can be called
    batch: Any,  # noqa: ANN401 - any nest of tensors
    call: Call,
    outputs: Mapping[str, Tensor],
    given: Callable[[Any], Any] | None,
) -> Step | None:
    """Return how a model makes a loss of a batch, or None if that is not known.

    Args:
        model: may have one of `METHODS`.
        batch: as it was given.
        call: the model's call, which may return a loss itself.
        outputs: what that returned.
        given: a function from the batch to a loss, or to predictions.
    """
    _, rebuild = flattened(batch)
    if given is not None:
        return Step(lambda inputs: given(rebuild(inputs)), "the function given")
    for name in METHODS:
        method = getattr(model, name, None)
        if inspect.ismethod(method):
            made = _called(method, batch, rebuild)
            if made is not None:
                return Step(made, f"{type(model).__name__}.{name}")
    returned = [path for path, y in outputs.items() if y.ndim == 0 and y.is_floating_point()]
    named = [path for path in returned if "loss" in path.lower()]
    if named or (returned and len(outputs) == 1):
        return Step(call, "the call, which returns a loss")
    return None


def _called(
    method: Callable[..., Any],
    batch: Any,  # noqa: ANN401 - any nest of tensors
    rebuild: Callable[[dict[str, Tensor]], Any],
) -> Call | None:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [p for p in inspect.signature(method).parameters.values() if p.kind in kinds]
    required = [p for p in parameters if p.default is inspect.Parameter.empty]
    if len(required) == 2 and required[1].name == "batch_idx":
        return lambda inputs: method(rebuild(inputs), 0)
    if len(required) == 1:
        return lambda inputs: method(rebuild(inputs))
    if isinstance(batch, Mapping) and {p.name for p in required} <= set(batch):
        taken = {p.name for p in parameters}
        return lambda inputs: method(**{k: x for k, x in rebuild(inputs).items() if k in taken})
    if isinstance(batch, tuple | list) and len(required) == len(batch):
        return lambda inputs: method(*rebuild(inputs))
    return None


class _Losses(TorchFunctionMode):
    """Notes what is weighed against what."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, Tensor, Tensor]] = []
        self._inside = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        """Run a function; note its arguments if it computes a loss."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in LOSSES or self._inside:
            return func(*args, **kwargs)
        both = dict(zip(("input", "target"), args, strict=False)) | kwargs
        if isinstance(both.get("input"), Tensor) and isinstance(both.get("target"), Tensor):
            self.found.append((name, both["input"], both["target"]))
        self._inside = True
        try:
            return func(*args, **kwargs)
        finally:
            self._inside = False


def watched(step: Step) -> Call:
    """Return a training step that also returns predictions and targets, numbered from the second.

    Where no function of torch has computed a loss, there is only what the step itself returns.
    """

    def call(inputs: dict[str, Tensor]) -> dict[str, Any]:
        with _Losses() as seen:
            out = step.call(inputs)
        found: dict[str, Any] = {}
        for i, (_, prediction, target) in enumerate(seen.found):
            number = f" {i + 1}" if i else ""
            found[PREDICTION + number] = prediction
            found[TARGET + number] = target
        return found | {f"{RETURNED}.{path}": x for path, x in leaves(out).items()}

    return call


def label_names(inputs: dict[str, Tensor], given: Iterable[str]) -> list[str]:
    """Return the inputs that hold labels: as given, or by their names."""
    given = list(given)
    if given:
        return given
    return [
        name
        for name in inputs
        if (word := name.rsplit(".", maxsplit=1)[-1].lower()) == "y"
        or any(part in word for part in LABEL_WORDS)
    ]


def training_clock(
    contract: Contract, inputs: dict[str, Tensor], axes: dict[str, int], labels: Iterable[str]
) -> Clock:
    """Return when inputs are known in a training step.

    Under a contract along time, a label becomes known after the other inputs of its step, unless
    it is itself one of them.
    """
    available = dict(contract.pairs(inputs)[0][0])
    if contract.shift is None:
        return available
    found = {name: HALVES * moments for name, moments in available.items()}
    labels = [name for name in labels if name in found]
    for name in labels:
        x = inputs[name]
        others = [o for n, o in inputs.items() if n not in labels and n in axes]
        if not any(o.shape == x.shape and torch.equal(o, x.to(o)) for o in others):
            found[name] = found[name] + 1
    return found


def training_needs(contract: Contract, clocks: Clocks) -> Clocks:
    """Return when outputs are needed, on the clock of `training_clock`."""
    if contract.shift is None:
        return clocks
    return replace(clocks, needed={p: HALVES * moments for p, moments in clocks.needed.items()})


@dataclass
class Judged:
    """What tracking says of a training step.

    Attributes:
        proof: whether predictions keep to it.
        pair: the clocks.
        clocks: the same, spread; empty if nothing can be judged.
        why: nothing can be judged.
    """

    proof: Proof
    pair: tuple[Clock, Clock]
    clocks: Clocks
    why: str = ""


def judge(
    runner: Runner,
    inputs: dict[str, Tensor],
    available: Clock,
    needed: Clocks,
    labels: list[str],
    *,
    strictly: bool = True,
    name: str = "training step",
) -> Judged:
    """Follow a training step, and say which predictions may know their own label.

    Args:
        runner: runs the step, see `watched`.
        inputs: tensors by name.
        available: when they are known.
        needed: when the model's outputs are needed: predictions that a step returns keep to it.
        labels: names of inputs that hold labels.
        strictly: whether a prediction must be known before its label; rows are the same at best.
        name: for the report.
    """
    setting = Setting(TRAINING)
    outputs = runner(inputs, setting)
    wide = {path: torch.tensor(OPEN) for path in outputs}
    pair = (available, wide)
    clocks = spread_clocks(pair, inputs, outputs)
    first = prove(runner, inputs, pair, clocks, setting, name=name, exact=True)
    if first.failed:
        return Judged(first, pair, Clocks({}, {}), first.failed)
    due: Clock = {}
    for path, y in outputs.items():
        if path.startswith(PREDICTION):
            of = first.labels[path.replace(PREDICTION, TARGET)]
            moments = torch.where(of == NEVER, OPEN, of - int(strictly))
            fitted = _fitted(moments, y.shape)
            if fitted is not None and bool((of != NEVER).any()):
                due[path] = fitted
    for path, y in outputs.items():
        known = _needed(path.removeprefix(f"{RETURNED}."), y, needed)
        if not due and known is not None and known.shape == y.shape and strictly:
            own = [
                clocks.available[n]
                for n in labels
                if n in clocks.available and clocks.available[n].shape == y.shape
            ]
            late = "loss" in path.lower()
            due[path] = torch.stack([known, *own]).amax(0) if late and own else known
    if not due:
        why = "no function of torch computed a loss of it, and it returned no predictions"
        none = any(path.startswith(TARGET) for path in outputs)
        why = "what its loss is weighed against has no clock" if none else why
        return Judged(first, pair, Clocks({}, {}), why)
    clocks = Clocks(clocks.available, due)
    pair = (available, due)
    excess = _excess(first, due)
    if not excess:
        labels_of = {path: first.labels[path] for path in due}
        return Judged(replace(first, labels=labels_of, excess=[]), pair, clocks)
    return Judged(prove(runner, inputs, pair, clocks, setting, name=name), pair, clocks)


def _needed(path: str, y: Tensor, clocks: Clocks) -> Tensor | None:
    """Return when a returned tensor is needed: as the output of its name, or the only one."""
    if len(clocks.needed) == 1 and y.ndim:
        (only,) = clocks.needed.values()
        return clocks.needed.get(path, only)
    return clocks.needed.get(path)


def _excess(proof: Proof, due: Clock) -> list[Excess]:
    return [
        Excess(path, 0, (), int(beyond.sum()))
        for path, moments in due.items()
        if bool((beyond := proof.labels[path] > moments).any())
    ]


def _fitted(moments: Tensor, shape: torch.Size) -> Tensor | None:
    """Return the moments of targets in the shape of predictions, which may have classes too."""
    if moments.ndim == len(shape) - 1:
        moments = moments.unsqueeze(min(1, moments.ndim))
    try:
        return moments.expand(shape).contiguous()
    except RuntimeError:
        return None


def row_pairs(inputs: dict[str, Tensor], axis: int) -> list[Clock]:
    """Return clocks by which no row may read a later one, and none an earlier one."""
    rows = row_count(inputs, axis)
    names = [name for name, x in inputs.items() if x.ndim > axis and x.shape[axis] == rows]
    if rows < 2 or not names:
        return []
    return [
        dict.fromkeys(names, order.reshape([1] * axis + [-1]))
        for order in (torch.arange(rows), torch.arange(rows).flip(0))
    ]


def trained(model: nn.Module) -> list[Tensor]:
    """Return the parameters that training changes."""
    return [p for p in model.parameters() if p.requires_grad]
