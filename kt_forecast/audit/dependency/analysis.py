"""What every element of a model's outputs may depend on, proved in one run of the model."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._script import RecursiveScriptModule
from torch.utils._pytree import SUPPORTED_NODES, keystr, tree_flatten_with_path

from kt_forecast.audit.dependency.calls import STRUCTURAL, WEAK
from kt_forecast.audit.dependency.engine import Tracker, detached
from kt_forecast.audit.dependency.escapes import Escape, eager
from kt_forecast.audit.dependency.labels import NEVER, Moments, Shadow
from kt_forecast.audit.dependency.locate import Clocks, Origin, origins

OUTPUT = "output"
"""The path of an output that is one tensor."""


@dataclass
class Tracked:
    """What a run found; labels hold for every input that takes the same path through the code.

    Attributes:
        outputs: by path, the latest moment each element may depend on under ``conditions``;
            `NEVER` for none.
        unconditional: the same without trust in finite masks.
        unknown: operations without a rule, taken to mix everything.
        escapes: values that left torch.
        conditions: what the labels of ``outputs`` rest on.
        notes: what the reader of a verdict should know.
        state: by name, the latest moment that tensors kept by the model depend on afterwards.
        n_ops: operations followed.
    """

    outputs: dict[str, Tensor]
    unconditional: dict[str, Tensor]
    unknown: list[str]
    escapes: list[Escape]
    conditions: list[str]
    notes: list[str]
    state: dict[str, int]
    n_ops: int
    _shadows: dict[str, Shadow] = field(repr=False, default_factory=dict)
    _clocks: Clocks | None = field(repr=False, default=None)

    def origin(self, path: str, limit: Tensor | int) -> list[Origin]:
        """Return where the dependence of an output on too late a moment begins.

        Args:
            path: which output.
            limit: the latest moment each element is allowed, broadcast from the left.

        Returns:
            Each independent origin, the one that brings the latest moment first; none if the
            output keeps to the limit.

        Raises:
            ValueError: the run was not asked to locate.
        """
        if self._clocks is None:
            raise ValueError("track(..., locate=True) must have been asked for")
        labels = self.outputs[path]
        allowed = spread(torch.as_tensor(limit, dtype=torch.int64), labels.shape)
        return origins(self._shadows[path], allowed, self._clocks)


def track(  # noqa: PLR0913 - each is a choice of its own, with a default
    call: Callable[[dict[str, Tensor]], Any],
    inputs: dict[str, Tensor],
    available: dict[str, Tensor],
    *,
    model: nn.Module | None = None,
    only: str | None = None,
    locate: bool = False,
    constants: Collection[str] = (),
    freeze_routing: bool = False,
    calls: int = 1,
    seed: int = 0,
    enough: dict[str, Tensor] | None = None,
) -> Tracked:
    """Run a model and find what each element of its outputs may depend on.

    The model runs for real, without gradients, in the mode it is in, kernels that fuse several
    operations switched off. Values count only where they are known constants: a known zero
    annihilates a product, a known mask a term of a softmax; parameters may take any value.
    A second run follows where masks are finite and weaker than structural: its labels hold as
    long as scores stay above the mask, which is then among the conditions. Buffers and random
    state are as before when the call returns.

    Args:
        call: from the inputs to any nest of tensors.
        inputs: tensors by name.
        available: the moment each input element is known from, broadcast from the left; inputs
            left out are known always.
        model: its parameters are taken to be learnable, its modules name origins.
        only: label this input alone.
        locate: keep the graph of operations, so that origins can be named.
        constants: inputs whose values are taken as fixed, such as a mask that the caller makes.
        freeze_routing: take computed indices as they are, as a condition.
        calls: how often to call; more than once shows what passes from call to call.
        seed: of random draws.
        enough: the latest moment that each element of an output may have, spread to its shape;
            where no label is later, there is no second run.

    Raises:
        ValueError: a clock names no input.
    """
    strange = sorted(set(available) - set(inputs))
    if strange:
        raise ValueError(f"clocks were given for {strange}, the inputs are {sorted(inputs)}")
    clocked = {name: x for name, x in available.items() if only in {None, name}}

    asked = _Asked(
        call, inputs, clocked, model, locate, frozenset(constants), freeze_routing, calls, seed
    )
    found = strict = _Pass(asked, STRUCTURAL)
    conditions = [f"input {name} keeps its values" for name in constants]
    if strict.tracker.weak_masks and not _keeps(strict.labels, enough):
        second = _Pass(asked, WEAK)
        fewer = any(bool((second.labels[p] < strict.labels[p]).any()) for p in strict.labels)
        if fewer and not second.tracker.misused:
            found = second
            conditions += [
                f"scores stay above the finite mask {value:g} ({where})"
                for value, where in strict.tracker.weak_masks.items()
            ]
    tracker = found.tracker
    return Tracked(
        outputs=found.labels,
        unconditional=strict.labels,
        unknown=list(tracker.unknown),
        escapes=list(tracker.escapes),
        conditions=[*conditions, *tracker.routings],
        notes=list(tracker.notes),
        state=found.state,
        n_ops=tracker.n_ops,
        _shadows=found.shadows,
        _clocks=Clocks(tracker.moments, inputs, clocked) if locate else None,
    )


def _keeps(labels: dict[str, Tensor], enough: dict[str, Tensor] | None) -> bool:
    """Return whether no label is later than what is enough to know."""
    if enough is None or not enough.keys() <= labels.keys():
        return False
    return all(bool((labels[path] <= due).all()) for path, due in enough.items())


@dataclass(frozen=True)
class _Asked:
    """What `track` was asked, in its words."""

    call: Callable[[dict[str, Tensor]], Any]
    inputs: dict[str, Tensor]
    clocked: dict[str, Tensor]
    model: nn.Module | None
    locate: bool
    constants: frozenset[str]
    freeze_routing: bool
    calls: int
    seed: int


class _Pass:
    """One run of the model under the tracker; a second one if the model writes its buffers."""

    def __init__(self, asked: _Asked, mask_at_most: float) -> None:
        model = asked.model
        changing: list[Tensor] = []
        for _ in range(2):
            with _kept(model, asked.seed):
                self.tracker = Tracker(
                    Moments(asked.clocked.values()),
                    model,
                    mask_at_most=mask_at_most,
                    freezes_routing=asked.freeze_routing,
                    traces=asked.locate,
                    changing=changing,
                )
                before = _versions(model)
                out = self._run(asked)
                written = [x for x, n in before if x._version != n]  # noqa: SLF001 - counts writes
                self.state = _state(model, self.tracker)
            if not written or changing:
                break
            changing = written
        self.shadows: dict[str, Shadow] = {}
        self.labels: dict[str, Tensor] = {}
        for path, x in leaves(out).items():
            shadow = self._shadow(x)
            self.shadows[path] = shadow
            self.labels[path] = self.tracker.moments.moments(shadow.latest)

    def _run(self, asked: _Asked) -> Any:  # noqa: ANN401 - whatever the model returns
        out = None
        for _ in range(asked.calls):
            fresh = detached(asked.inputs)
            for name, x in fresh.items():
                if isinstance(x, Tensor):
                    clock = asked.clocked.get(name)
                    moments = None if clock is None else spread(clock, x.shape)
                    self.tracker.label(x, moments, constant=name in asked.constants)
            with ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                stack.enter_context(eager())
                stack.enter_context(_named(asked.model, self.tracker))
                stack.enter_context(self.tracker.watch())
                stack.enter_context(self.tracker)
                out = asked.call(fresh)
        return out

    def _shadow(self, x: Any) -> Shadow:  # noqa: ANN401 - a leaf of the output
        if isinstance(x, Tensor):
            return self.tracker.shadow(x)
        shape = getattr(x, "shape", ())
        latest = torch.full(tuple(shape), self.tracker.escaped)
        return Shadow(latest, torch.zeros(tuple(shape), dtype=torch.bool))


def spread(moments: Tensor, shape: torch.Size) -> Tensor:
    """Return moments broadcast to a shape, axes matched from the left."""
    missing = len(shape) - moments.ndim
    return moments.reshape([*moments.shape, *([1] * missing)]).expand(shape)


def leaves(out: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever a model returns
    """Return the tensors, arrays and floats of a nest by their paths, joined by dots."""
    found: dict[str, Any] = {}
    for keys, leaf in tree_flatten_with_path(out)[0]:
        path = ".".join(keystr((key,)).strip("[].'\"") for key in keys)
        if isinstance(leaf, Tensor | float) or hasattr(leaf, "__array_interface__"):
            found[path or OUTPUT] = leaf
            continue
        for name, value in _parts(leaf).items():
            inner = leaves(value)
            for below, x in inner.items():
                names = [path, name, *([] if below == OUTPUT else [below])]
                found[".".join(n for n in names if n)] = x
    return found


def _parts(leaf: Any) -> dict[str, Any]:  # noqa: ANN401 - an object that holds tensors
    if leaf is None or isinstance(leaf, type | str | bytes | int | nn.Module):
        return {}
    if is_dataclass(leaf):
        return {f.name: getattr(leaf, f.name) for f in fields(leaf)}
    kept = getattr(leaf, "__dict__", {})
    return {
        name: x
        for name, x in kept.items()
        if isinstance(x, Tensor) or (type(x) in SUPPORTED_NODES and x)
    }


@contextmanager
def _named(model: nn.Module | None, tracker: Tracker) -> Iterator[None]:
    """Keep the name of the innermost module that runs."""
    if model is None:
        yield
        return
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, RecursiveScriptModule):  # which takes no hooks
            continue
        title = f"{name or '<model>'} ({type(module).__name__})"
        handles += [
            module.register_forward_pre_hook(
                lambda *_, title=title: tracker.modules.append(title), prepend=True
            ),
            module.register_forward_hook(lambda *_: _left(tracker.modules), always_call=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _left(modules: list[str]) -> None:
    modules.pop()


@contextmanager
def _kept(model: nn.Module | None, seed: int) -> Iterator[None]:
    """Put buffers and random state back afterwards."""
    tensors = [*model.buffers(), *model.parameters()] if model is not None else []
    before = [(x, x.detach().clone()) for x in tensors]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            with torch.no_grad():
                for x, copy in before:
                    if x.shape == copy.shape and not torch.equal(x, copy):
                        x.copy_(copy)


def _versions(model: nn.Module | None) -> list[tuple[Tensor, int]]:
    if model is None:
        return []
    return [(x, x._version) for x in model.buffers()]  # noqa: SLF001 - counts writes


def _state(model: nn.Module | None, tracker: Tracker) -> dict[str, int]:
    """Return what tensors that the model keeps depend on."""
    if model is None:
        return {}
    found: dict[str, int] = {}
    for prefix, module in model.named_modules():
        for name, value in {**vars(module), **module._buffers}.items():  # noqa: SLF001
            if name in {"_parameters", "_buffers", "_modules"}:
                continue
            for path, x in leaves(value).items():
                if isinstance(x, Tensor) and x in tracker.memory:
                    rank = int(tracker.shadow(x).latest.max()) if x.numel() else -1
                    moment = tracker.moments.moment(rank)
                    if moment != NEVER:
                        key = ".".join(n for n in (prefix, name, path) if n and n != OUTPUT)
                        found[key] = moment
    return found
