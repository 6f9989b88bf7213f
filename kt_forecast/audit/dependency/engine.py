"""Runs a model for real and carries, beside every tensor, what its elements depend on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import decomposition_table
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from kt_forecast.audit.dependency import bounds, families
from kt_forecast.audit.dependency.calls import (
    RULES,
    STRUCTURAL,
    Call,
    Result,
    Rule,
    Run,
    tensors_in,
)
from kt_forecast.audit.dependency.escapes import Escape, Watch, is_check, source
from kt_forecast.audit.dependency.labels import NONE, Moments, Shadow, top, unknown
from kt_forecast.audit.dependency.locate import BACK, Node
from kt_forecast.audit.dependency.memory import Memory, address

assert families  # noqa: S101 - importing them registers their rules

aten = torch.ops.aten

ANSWERS = {"_fused_sdp_choice", "is_same_size", "_use_cudnn_ctc_loss", "is_pinned"}
"""Operations whose plain answers depend on shapes only, not on values."""

RESHAPES = {
    "transpose_",
    "t_",
    "squeeze_",
    "unsqueeze_",
    "swapaxes_",
    "swapdims_",
    "as_strided_",
    "as_strided",
    "detach_",
    "set_",
}
"""Views that are read from the storage: by strides of their own, or of the tensor itself."""

MOVES = {"_to_copy", "clone", "cat", "stack", "copy", "copy_", "_unsafe_view", "constant_pad_nd"}
"""Operations that hand on scores as they are."""

SCORES = {"add", "sub", "rsub", "where", "masked_fill", "baddbmm", "addmm"}
"""Operations that compute scores from scores."""

WEIGHS = {"_softmax", "_safe_softmax", "_log_softmax", "exp", "amax", "max", "topk", "sort"}
"""Operations to which a score far below all others is as good as none."""

RESIZES = {"resize_", "resize_as_"}
"""In place, and the storage is another one afterwards."""


@dataclass(frozen=True)
class Plan:
    """How an operation is followed: found once, from its schema."""

    name: str
    rule: Rule | None
    views: bool = False
    writes: tuple[int | str, ...] = ()
    in_place: bool = False
    functional: OpOverload | None = None
    pointwise: bool = False
    random: bool = False
    composite: bool = False
    decomposition: Callable[..., Any] | None = None
    bounds: bool = False


class Tracker(TorchDispatchMode, Run):
    """Follows every tensor operation that runs under it.

    Args:
        moments: all moments of the inputs.
        model: its parameters are values that may change; its buffers are constants.
        mask_at_most: known scores at most this are taken for masks.
        freezes_routing: take computed indices as they are, and note it.
        traces: keep the graph of operations, for `locate`.
        changing: tensors that are not constants although no input reaches them: buffers that the
            model writes.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        moments: Moments,
        model: nn.Module | None = None,
        *,
        mask_at_most: float = STRUCTURAL,
        freezes_routing: bool = False,
        traces: bool = False,
        changing: Sequence[Tensor] = (),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moments = moments
        self.mask_at_most = mask_at_most
        self.freezes_routing = freezes_routing
        self.traces = traces
        self.memory = Memory(self._born)
        self.n_ops = 0
        self.unknown: dict[str, None] = {}
        self.notes: dict[str, None] = {}
        self.escapes: dict[Escape, None] = {}
        self.weak_masks: dict[float, str] = {}
        self.routings: dict[str, None] = {}
        self.modules: list[str] = []
        self.escaped = NONE
        self._escape_source = ""
        self._numbers: dict[float, int] = {}
        self._before: list[Tensor] = []
        self._old: set[int] = set()
        self._muted = 0
        self._hiding: set[int] = set()
        self._bounds: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.misused: dict[str, None] = {}
        parameters = list(model.parameters()) if model is not None else []
        self._learned = {address(x) for x in (*parameters, *changing)} - {None}

    # What rules may ask.

    def shadow(self, x: Tensor) -> Shadow:
        """Return what is known of a tensor."""
        return self.memory.get(x)

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return between what whole numbers lie that were computed and never overwritten."""
        found = self._bounds.get(x) if x.dtype in bounds.WHOLE and self._bounds else None
        return None if found is None or self.memory.is_written(x) else found

    def write(self, x: Tensor, shadow: Shadow) -> None:
        """Record that a tensor was overwritten."""
        self.memory.write(x, shadow)

    def escape(self, rank: int, what: str) -> None:
        """Record that values up to a rank left torch."""
        if rank == NONE or self._muted or is_check():
            return
        where = source()
        self.escapes[Escape(self.moments.moment(rank), what, where, self._module())] = None
        if self.escaped == NONE:
            self._remember()
        if rank > self.escaped:
            self.escaped, self._escape_source = rank, where

    def number(self, x: float) -> int:
        """Return the rank of a plain number: that of a value equal to it that left torch."""
        return self._numbers.get(x, NONE) if self._numbers else NONE

    def weak_mask(self, value: float) -> None:
        """Record a finite mask."""
        self.weak_masks.setdefault(value, source())

    def hides(self, x: Tensor) -> None:
        """Record that a finite mask hides what elements of a tensor depend on."""
        where = address(x)
        if where is not None:
            self._hiding.add(where)

    def _used(self, call: Call, plan: Plan) -> None:
        """See to it that scores hidden by finite masks are only weighed against other scores."""
        if not self._hiding or plan.views:
            return
        if not any(address(x) in self._hiding for x in call.tensors):
            return
        name = plan.name.rstrip("_") if plan.name.endswith("_") else plan.name
        if name in MOVES | SCORES:
            for x in call.outs:
                self.hides(x)
        elif name not in WEIGHS:
            self.misused[f"{plan.name} at {source()}"] = None

    def routed(self, rank: int, what: str) -> None:
        """Record that the indices of an operation were taken as fixed."""
        if rank != NONE:
            moment = self.moments.moment(rank)
            self.routings[
                f"the indices of {what} at {source()} are fixed: they may depend on moment {moment}"
            ] = None

    def note(self, what: str) -> None:
        """Record something that the reader of a verdict should know."""
        self.notes[what] = None

    def label(self, x: Tensor, moments: Tensor | None, *, constant: bool = False) -> None:
        """Give an input its moments, in its shape; without any it is known always."""
        if moments is None:
            latest = torch.tensor(NONE, dtype=self.moments.dtype)
        else:
            latest = self.moments.ranks(moments)
        shadow = Shadow(latest.to(x.device), torch.tensor(constant, device=x.device))
        self.memory.put(x, shadow.expand(x.shape), uniform=moments is None)

    def watch(self) -> Watch:
        """Return a mode that sees values leave torch unseen by its dispatcher."""
        return Watch(self._left, self._mute)

    # Origins.

    def _born(self, x: Tensor) -> Shadow:
        """Return the shadow of a tensor that no operation made."""
        learned = isinstance(x, nn.Parameter) or address(x) in self._learned
        learned = learned or (x.requires_grad and x.is_leaf)
        foreign = self.escaped != NONE and not learned and id(x) not in self._old
        rank = self.escaped if foreign else NONE
        latest = torch.tensor(rank, dtype=self.moments.dtype, device=x.device)
        known = torch.tensor(not learned and not foreign, device=x.device)
        shadow = Shadow(latest, known).expand(x.shape)
        if foreign and self.traces:
            shadow.node = Node(BACK, self._module(), self._escape_source)
            shadow.node.outputs.append(shadow)
        return shadow

    def _remember(self) -> None:
        """Keep the tensors that exist before anything has escaped: they cannot carry it."""
        import gc

        self._before = [x for x in gc.get_objects() if type(x) in {Tensor, nn.Parameter}]
        self._old = {id(x) for x in self._before}

    def _left(self, x: Tensor, what: str) -> None:
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - own bookkeeping is not watched
            self.escape(top(self.memory.get(x).latest), what)

    @contextmanager
    def _mute(self) -> Iterator[None]:
        self._muted += 1
        try:
            yield
        finally:
            self._muted -= 1

    def _module(self) -> str:
        return self.modules[-1] if self.modules else ""

    # Dispatch.

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operation returns
        """Run an operation and follow it."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - own bookkeeping is not watched
            self.n_ops += 1
            if isinstance(func, HigherOrderOperator):
                out = func(*args, **kwargs)
                self._put(Call(self, func, args, kwargs, out), plan_of(func), None)
                return out
            plan = plan_of(func)
            if plan.rule is None and not (plan.views or plan.pointwise or plan.writes):
                out = self._decomposed(func, plan, args, kwargs)
                if out is not NotImplemented:
                    return out
            if plan.functional is not None:
                with self:
                    return args[0].copy_(plan.functional(*args, **kwargs))
            return self._followed(func, plan, args, kwargs)

    def _decomposed(
        self, func: OpOverload, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 - whatever the operation returns
        """Run an operation as the simpler ones it is made of, if it is."""
        if plan.composite:
            with self:
                return func.decompose(*args, **kwargs)
        if plan.decomposition is None or not tensors_in(args):
            return NotImplemented
        with self:
            try:
                return plan.decomposition(*args, **kwargs)
            except (NotImplementedError, RuntimeError, TypeError, AttributeError):
                return NotImplemented

    def _followed(
        self, func: OpOverload, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 - whatever the operation returns
        if plan.name in RESHAPES:
            self.memory.forget_layout(args[0])
            out = func(*args, **kwargs)
            self.memory.forget_layout(out)
            return out
        for x in tensors_in((args, kwargs)):
            self.memory.meet(x)
        seen = args
        if plan.writes and plan.rule is not None:
            seen = self._kept(plan, args)
        out = func(*args, **kwargs)
        call = Call(self, func, seen, kwargs, out)
        try:
            found = self._judge(call, plan)
        except (RuntimeError, IndexError, TypeError, ValueError, KeyError, AttributeError) as error:
            self.note(f"the rule of {plan.name} failed and it was taken to mix all: {error}")
            found = None
        self._used(call, plan)
        if plan.in_place:
            self._overwrite(call, plan, found, args, kwargs)
            return out
        if plan.writes and plan.rule is None:
            self._overwrite(call, plan, None, args, kwargs)
        self._put(call, plan, found)
        if plan.bounds and not plan.writes:
            self._bound(call, plan)
        return out

    def _bound(self, call: Call, plan: Plan) -> None:
        """Keep between what computed whole numbers lie."""
        try:
            every = bounds.bounded(call, views=plan.views)
        except (RuntimeError, IndexError, TypeError, ValueError, KeyError, AttributeError):
            return
        for x, found in zip(call.outs, every, strict=False):
            if found is not None:
                self._bounds[x] = found

    def _kept(self, plan: Plan, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return arguments in which what is about to be overwritten stands as it was."""
        kept = list(args)
        for where in plan.writes:
            if isinstance(where, int) and where < len(args) and isinstance(args[where], Tensor):
                kept[where] = args[where].clone()
                self.memory.put(kept[where], self.memory.get(args[where]))
        return tuple(kept)

    def _judge(self, call: Call, plan: Plan) -> Result:
        """Return the shadows of what an operation returned, or None to mix everything."""
        if plan.rule is not None:
            return self._least(call, plan.rule)
        if plan.views:
            return families.view(call)
        if plan.pointwise:
            found = call.joined()
            return unknown(found.latest) if plan.random else found
        if not call.tensors:
            return families.made(call, random=plan.random)
        if plan.random and plan.writes and len(call.tensors) == 1:
            return unknown(torch.tensor(NONE, dtype=self.moments.dtype))
        return None

    def _least(self, call: Call, rule: Rule) -> Result:
        """Return what a rule says; indices are taken as they are only where that tells more."""
        before = dict(self.routings)
        found = rule(call)
        if self.routings == before or not isinstance(found, Shadow):
            return found
        self.freezes_routing = False
        try:
            loose = rule(call)
        finally:
            self.freezes_routing = True
        if not isinstance(loose, Shadow) or not _same(loose, found):
            return found
        self.routings = before
        return loose

    def _shadows(self, call: Call, plan: Plan, found: Result, count: int) -> list[Shadow]:
        if isinstance(found, Shadow):
            return [found] * count
        if found is not None and len(found) >= count:
            return list(found)
        mixed = call.mixed()
        if int(mixed.latest) != NONE:
            self.unknown[plan.name] = None
        return [mixed] * count

    def _put(self, call: Call, plan: Plan, found: Result) -> None:
        outs = call.outs
        self._answered(call, plan)
        shadows = self._shadows(call, plan, found, len(outs)) if outs else []
        node = self._node(call, plan.name)
        for x, shadow in zip(outs, shadows, strict=False):
            self.memory.put(x, self._fitted(call, x, shadow, node))

    def _overwrite(
        self,
        call: Call,
        plan: Plan,
        found: Result,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        given = [args[w] if isinstance(w, int) else kwargs.get(w) for w in plan.writes]
        written = tensors_in(given)
        shadows = self._shadows(call, plan, found, len(written))
        node = self._node(call, plan.name)
        keep = self.memory.replace if plan.name in RESIZES else self.memory.write
        for x, shadow in zip(written, shadows, strict=False):
            self._bounds.pop(x, None)
            keep(x, self._fitted(call, x, shadow, node))

    def _fitted(self, call: Call, x: Tensor, shadow: Shadow, node: Node | None) -> Shadow:
        """Return a shadow in the shape, type and place of its tensor."""
        latest = shadow.latest.to(x.device, self.moments.dtype)
        known = shadow.known.to(x.device)
        try:
            fitted = Shadow(latest.expand(x.shape), known.expand(x.shape), node)
        except RuntimeError:
            self.unknown[str(call.name)] = None
            mixed = call.mixed()
            fitted = Shadow(
                mixed.latest.to(x.device, self.moments.dtype).expand(x.shape),
                mixed.known.to(x.device).expand(x.shape),
                node,
            )
        if node is not None:
            node.outputs.append(fitted)
        return fitted

    def _node(self, call: Call, name: str) -> Node | None:
        if not self.traces:
            return None
        inputs = [self.memory.get(x) for x in call.tensors]
        return Node(name, self._module(), source(), inputs)

    def _answered(self, call: Call, plan: Plan) -> None:
        """Record plain values that an operation returned."""
        if isinstance(call.out, Tensor):
            return
        plain = [x for x in tree_leaves(call.out) if isinstance(x, bool | int | float | complex)]
        if not plain or plan.name in ANSWERS or not call.tensors:
            return
        rank = int(call.mixed().latest)
        self.escape(rank, "item" if plan.name == "_local_scalar_dense" else plan.name)
        for x in plain:
            if rank != NONE and isinstance(x, float) and not x.is_integer():
                self._numbers[x] = max(rank, self._numbers.get(x, NONE))


def _same(a: Shadow, b: Shadow) -> bool:
    """Return whether two shadows say the same."""
    try:
        alike = bool((a.latest == b.latest).all()) and bool((a.known == b.known).all())
    except RuntimeError:
        return False
    return alike


@cache
def plan_of(func: OpOverload) -> Plan:
    """Return how an operation is to be followed."""
    if isinstance(func, HigherOrderOperator):
        return Plan(name=str(func), rule=None)
    schema = func._schema  # noqa: SLF001 - the only description of an operation
    writes: list[int | str] = [
        a.name if a.kwarg_only else position
        for position, a in enumerate(schema.arguments)
        if a.alias_info is not None and a.alias_info.is_write
    ]
    views = bool(schema.returns) and all(r.alias_info is not None for r in schema.returns)
    name = schema.name.split("::")[-1]
    found = RULES.get(func) or RULES.get(func.overloadpacket)
    if found is None and name.endswith("_") and not name.endswith("__"):
        plain = getattr(aten, name[:-1], None)
        found = RULES.get(plain) if plain is not None else None
    functional = _functional(func, name) if writes == [0] else None
    pointwise = _is_pointwise(func) or (functional is not None and _is_pointwise(functional))
    random = torch.Tag.nondeterministic_seeded in func.tags
    key = torch._C.DispatchKey.CompositeImplicitAutograd  # noqa: SLF001 - has no public name
    followed = found is not None or pointwise or random
    return Plan(
        name=name,
        rule=found,
        views=views and not writes,
        writes=tuple(writes),
        in_place=bool(writes) and (views or not schema.returns),
        functional=None if followed else functional,
        pointwise=pointwise,
        random=random,
        composite=found is None and func.has_kernel_for_dispatch_key(key),
        decomposition=decomposition_table.get(func),
        bounds=func.overloadpacket in bounds.FOLLOWS or (views and not writes),
    )


def _functional(func: OpOverload, name: str) -> OpOverload | None:
    """Return the operation that computes what another writes in place."""
    if not name.endswith("_") or name.endswith("__") or name in RESHAPES | RESIZES:
        return None
    packet = getattr(aten, name[:-1], None)
    return getattr(packet, func._overloadname, None)  # noqa: SLF001 - the name of an overload


def _is_pointwise(func: OpOverload) -> bool:
    return torch.Tag.pointwise in func.tags


def detached(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return copies of tensors, each with a storage of its own."""
    return tree_map_only(
        Tensor,
        lambda x: x.detach().clone(memory_format=torch.contiguous_format),
        inputs,
    )
