"""Where a dependence enters: the operation, its module, and the way from input to output.

The operations of a run form a graph. From the elements of an output that depend on too late a
moment one walks back, always along tensors whose elements already depend on more than their own
place allows. A tensor is judged by its axes of the same length as the clock: an element may depend
on what belongs to the latest of its own places, so that a score of query and key is innocent and
an unmasked softmax guilty. The operation at which no such tensor goes in is the origin. Where a
dependence passes through tensors without the axis (a pooled mean, a final state, single steps),
one looks through them, and the way to the input is part of the chain.

Where it cannot say: if another axis happens to have the length of the clock, elements are allowed
what either axis allows, and an origin may be found later than it is, or not at all (audit at a
length that no other axis has, best a prime). A loop whose own steps mix is blamed where they are
stacked. Behind one origin others on the same way are not seen. A dependence on the own step only
(an answer not shifted) has no operation that mixes steps: its origin is the operation that first
reads the input.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kt_forecast.audit.dependency.labels import Moments, Shadow, thin, top

LAYOUT = {
    "_unsafe_view",
    "alias",
    "clone",
    "contiguous",
    "detach",
    "expand",
    "flatten",
    "permute",
    "reshape",
    "squeeze",
    "t",
    "transpose",
    "unsqueeze",
    "view",
    "_to_copy",
}
"""Operations that leave every value at its place in time: a leak enters at what follows them."""

PICKS = {"select", "slice"}
"""Operations that take some of the moments; where all moments are alike too late, as harmless."""

DRAWS_TOGETHER = (
    "mean",
    "sum",
    "var",
    "std",
    "norm",
    "linalg_vector_norm",
    "amax",
    "amin",
    "aminmax",
    "max",
    "min",
    "arg",
    "topk",
    "sort",
    "median",
    "kthvalue",
    "logsumexp",
    "any",
    "all",
    "prod",
    "count_nonzero",
    "nonzero",
    "scatter_",
    "index_add",
    "bincount",
    "histc",
    "unique",
    "mode",
    "_fft",
    "adaptive_",
    "_adaptive",
    "max_pool",
    "avg_pool",
)
"""Beginnings of names of operations that make one value of many moments."""

BACK = "back from outside torch"
"""The operation by which values that have left torch come back."""

JOINS = {"cat", "constant_pad_nd", "copy_", "copy"}
"""Operations that may merely have put back a step that was left out before."""

READ_BACK = "read back"
"""The operation, of no module, by which a tensor written in parts is read again."""


@dataclass(eq=False, slots=True)
class Node:
    """One operation of a run.

    Attributes:
        op: its name.
        module: qualified name and class of the module it ran in.
        source: file and line of the user's code, where known.
        inputs: shadows that went in.
        outputs: shadows that came out.
    """

    op: str
    module: str
    source: str | None
    inputs: list[Shadow] = field(default_factory=list)
    outputs: list[Shadow] = field(default_factory=list)

    def covers(self, items: int) -> bool:
        """Return whether it wrote all of so many items."""
        return any(s.latest.numel() == items for s in self.outputs)


@dataclass(frozen=True)
class Link:
    """One step of a chain from input to output: what ran, and where."""

    module: str
    op: str
    source: str


@dataclass(frozen=True)
class Origin:
    """Where an output's dependence on too late a moment begins.

    Attributes:
        module: qualified name and class of the innermost module.
        op: the operation.
        source: file and line of the user's code.
        moment: the latest moment that enters here.
        chain: operations from the input through the origin to the output, as far as they differ.
    """

    module: str
    op: str
    source: str
    moment: int
    chain: tuple[Link, ...]


class Clocks:
    """The moments of places along the axes of inputs, by the length of the axis.

    Args:
        moments: the ranks of moments.
        inputs: tensors by name.
        available: their moments, broadcast from the left.
    """

    def __init__(
        self, moments: Moments, inputs: dict[str, Tensor], available: dict[str, Tensor]
    ) -> None:
        self.moments = moments
        self.own: dict[int, Tensor] = {}
        self.own_by_row: dict[int, Tensor] = {}
        for name, given in available.items():
            shape = inputs[name].shape
            ranks = moments.ranks(given).reshape([*given.shape, *([1] * (len(shape) - given.ndim))])
            ranks = ranks.expand(shape).to(torch.int64)
            for axis in _places(ranks):
                clock = _along(ranks, axis, largest=True)
                known = self.own.get(shape[axis])
                self.own[shape[axis]] = clock if known is None else torch.maximum(known, clock)
            _join(self.own_by_row, _by_row(ranks))

    def allowed(self, moments: Tensor) -> Tensor:
        """Return the greatest rank that is not later than each moment."""
        values = self.moments.values
        return torch.searchsorted(values, moments.contiguous(), right=True) - 1


def _varying(x: Tensor) -> list[int]:
    return [a for a, n in enumerate(x.shape) if n > 1 and bool((x != x.narrow(a, 0, 1)).any())]


def _places(x: Tensor) -> list[int]:
    """Return the axes along which moments vary: that of rows only where no other does."""
    varying = _varying(x)
    return [a for a in varying if a > 0] or varying


def _along(x: Tensor, axis: int, *, largest: bool) -> Tensor:
    rest = [a for a in range(x.ndim) if a != axis]
    if not rest:
        return x
    return x.amax(rest) if largest else x.amin(rest)


def _by_row(x: Tensor) -> dict[int, Tensor]:
    """Return what varies along an axis in another way in each row, by the length of the axis."""
    found: dict[int, Tensor] = {}
    for axis in _varying(x):
        if axis > 0 and x.shape[0] > 1:
            rest = [a for a in range(1, x.ndim) if a != axis]
            _join(found, {x.shape[axis]: x.amax(rest) if rest else x})
    return found


def _join(known: dict[int, Tensor], found: dict[int, Tensor]) -> None:
    """Take the later of two clocks of one length; of batches of other sizes the first stays."""
    for n, clock in found.items():
        before = known.setdefault(n, clock)
        if before.shape == clock.shape:
            known[n] = torch.maximum(before, clock)


def origins(output: Shadow, allowed: Tensor, clocks: Clocks) -> list[Origin]:
    """Return where the elements of an output come to depend on more than they are allowed.

    Args:
        output: the output.
        allowed: the latest moment that each of its elements is allowed, in its shape.
        clocks: the moments of the inputs' axes.
    """
    limit = clocks.allowed(allowed)
    if not bool((output.latest.cpu() > limit).any()):
        return []
    varying = _places(limit)
    needed = {output.latest.shape[a]: _along(limit, a, largest=True) for a in varying}
    everywhere = None if varying else int(limit.max())
    beyond = {
        n: torch.maximum(clock, clocks.own[n]) if n in clocks.own else clock
        for n, clock in needed.items()
    }
    rows = output.latest.shape[0]
    needed_by_row = _by_row(limit)
    beyond_by_row = dict(needed_by_row)
    _join(beyond_by_row, clocks.own_by_row)
    wide = Judge(beyond, everywhere, rows, beyond_by_row)
    breaks = bool(wide.breaks(output))
    judge = wide if breaks else Judge(needed, everywhere, rows, needed_by_row)
    search = _Search(judge, clocks)
    found = search.run(output)
    if not search.joins:
        return found
    shorter = _but_one(beyond if breaks else needed)
    finer = Judge(shorter, everywhere, rows, beyond_by_row if breaks else needed_by_row)
    return _Search(finer, clocks).run(output) or found


def _but_one(clocks: dict[int, Tensor]) -> dict[int, Tensor]:
    """Return clocks for axes of one step less too: of all steps but the last, or but the first."""
    return {n - 1: clock[1:] for n, clock in clocks.items() if n > 2} | clocks


class Judge:
    """Tells whether a tensor depends on more than its places allow.

    Args:
        clocks: the greatest rank allowed at each place of an axis, by the length of the axis.
        everywhere: the greatest rank allowed to any element, where places do not matter.
        rows: how many rows may have been laid out along one axis together with the places.
        by_row: the greatest rank allowed at each place of each row, by the length of the axis.
    """

    def __init__(
        self,
        clocks: dict[int, Tensor],
        everywhere: int | None,
        rows: int,
        by_row: dict[int, Tensor],
    ) -> None:
        self._clocks = clocks
        self._by_row = {n: clock for n, clock in by_row.items() if n in clocks}
        self.everywhere = everywhere
        self._rows = rows
        self._seen: dict[int, bool | None] = {}

    def breaks(self, shadow: Shadow) -> bool | None:
        """Return whether it does; None where it has no axis to judge by."""
        key = id(shadow)
        if key not in self._seen:
            self._seen[key] = self._judge(shadow.latest.cpu())
        return self._seen[key]

    def _judge(self, latest: Tensor) -> bool | None:
        latest_thin = thin(latest)
        if self.everywhere is not None:
            return bool((latest_thin > self.everywhere).any())
        limits = [x for x in (self._by_axes(latest), *self._by_rows(latest)) if x is not None]
        if not limits:
            return None
        return all(bool((latest_thin > limit).any()) for limit in limits)

    def _by_axes(self, latest: Tensor) -> Tensor | None:
        """Return what the latest of an element's own places allows."""
        limit: Tensor | None = None
        for axis, n in enumerate(latest.shape):
            if n in self._clocks:
                here = _laid(self._clocks[n], axis, latest.ndim)
                own = self._by_row.get(n)
                if axis > 0 and own is not None and latest.shape[0] == own.shape[0]:
                    shape = [own.shape[0]] + [1] * (latest.ndim - 1)
                    shape[axis] = n
                    here = own.reshape(shape)
                limit = here if limit is None else torch.maximum(limit, here)
        return limit

    def _by_rows(self, latest: Tensor) -> list[Tensor]:
        """Return limits for an axis that holds rows and places, in either order of the two."""
        if self._rows < 2 or any(n in self._clocks for n in latest.shape):
            return []
        found = []
        for axis, n in enumerate(latest.shape):
            clock = self._clocks.get(n // self._rows) if n % self._rows == 0 else None
            if clock is not None:
                orders = (clock.repeat(self._rows), clock.repeat_interleave(self._rows))
                found += [_laid(order, axis, latest.ndim) for order in orders]
        return found


def _laid(clock: Tensor, axis: int, ndim: int) -> Tensor:
    shape = [1] * ndim
    shape[axis] = len(clock)
    return clock.reshape(shape)


class _Search:
    """Walks back from an output along what depends on too much.

    Attributes:
        joins: whether an origin merely puts tensors beside each other.
    """

    def __init__(self, judge: Judge, clocks: Clocks) -> None:
        self._judge = judge
        self._clocks = clocks
        self._visited: set[int] = set()
        self._found: list[Origin] = []
        self.joins = False

    def run(self, output: Shadow) -> list[Origin]:
        """Return every origin that the output depends on."""
        pending: list[tuple[Shadow, tuple[Node, ...]]] = [(output, ())]
        while pending:
            shadow, after = pending.pop()
            node = shadow.node
            if node is None or id(node) in self._visited:
                continue
            self._visited.add(id(node))
            way = (node, *after)
            guilty = self._guilty(node)
            if guilty:
                pending += [(s, way) for s in guilty]
                continue
            self.joins |= node.op in JOINS
            self._found.append(self._origin(node, shadow, way))
        return sorted(self._found, key=lambda origin: -origin.moment)

    def _guilty(self, node: Node) -> list[Shadow]:
        """Return what went in and breaks its limit, looking through what has no axis to judge."""
        found, seen = [], {id(node)}
        pending = list(node.inputs)
        while pending:
            shadow = pending.pop()
            before = shadow.node
            breaks = self._judge.breaks(shadow)
            if before is None or breaks is False or id(before) in seen:
                continue
            seen.add(id(before))
            if breaks:
                found.append(shadow)
            else:
                pending += before.inputs
        return found

    def _origin(self, node: Node, shadow: Shadow, way: tuple[Node, ...]) -> Origin:
        if node.op == READ_BACK:
            last = max(reversed(node.inputs), key=self._writes)
            node = last.node or node
            way = (node, *way[1:])
        before: list[tuple[Node, Shadow]] = []
        seen: set[int] = {id(node)}
        source: Node | None = node
        while source is not None:
            inputs = [s for s in source.inputs if s.node is not None and id(s.node) not in seen]
            latest = max(inputs, key=self._lateness, default=None)
            if latest is None or top(latest.latest) < 0:
                break
            source = latest.node
            assert source is not None  # noqa: S101 - kept only with a node
            seen.add(id(source))
            before.append((source, latest))
        links = [_link(earlier) for earlier, _ in reversed(before)]
        links += [_link(later) for later in way]
        here = _link(self._entry(node, shadow, before, way))
        return Origin(
            module=here.module,
            op=here.op,
            source=here.source,
            moment=self._clocks.moments.moment(top(shadow.latest)),
            chain=_shortened(links, here),
        )

    def _entry(
        self,
        node: Node,
        shadow: Shadow,
        before: list[tuple[Node, Shadow]],
        way: tuple[Node, ...],
    ) -> Node:
        """Return the operation to name: where times are drawn together, or what uses the moved.

        Args:
            node: at which what breaks its limit comes out.
            shadow: what comes out.
            before: the way from there back to the input, with what each handed on.
            way: from there to the output.
        """
        latest = top(shadow.latest)
        drawn = node
        for earlier, handed in before:
            if self._judge.breaks(handed) is not None:
                break
            labels = thin(handed.latest)
            if earlier.op.startswith(DRAWS_TOGETHER) and _all_late(labels, latest):
                drawn = earlier
        path = [*(earlier for earlier, _ in reversed(before)), *way]
        rest = path[path.index(drawn) :] if drawn in path else [drawn]
        harmless = LAYOUT | {READ_BACK, BACK}
        found = next((n for n in rest if n.op not in harmless), node)
        if self._judge.everywhere is None:
            return found
        used = next((n for n in rest if n.op not in harmless | PICKS), node)
        return used if used.module == found.module else found

    def _writes(self, shadow: Shadow) -> tuple[bool, int]:
        """Order what was written into one tensor: what keeps its places is what it was before."""
        return self._judge.breaks(shadow) is not False, top(shadow.latest)

    def _lateness(self, shadow: Shadow) -> tuple[int, bool]:
        """Order what went in by the latest moment; of two alike, first what keeps no places."""
        return top(shadow.latest), self._judge.breaks(shadow) is None


def _all_late(labels: Tensor, latest: int) -> bool:
    """Return whether a row depends on the latest moment in all of its elements."""
    rows = labels.reshape(labels.shape[0], -1) if labels.ndim else labels.reshape(1, 1)
    return bool(rows.numel()) and bool((rows.amin(1) == latest).any())


def _link(node: Node) -> Link:
    return Link(node.module, node.op, node.source or "")


def _shortened(links: list[Link], origin: Link) -> tuple[Link, ...]:
    """Return a chain with runs in one module and on one line reduced to their last operation."""
    kept: list[Link] = []
    for link in links:
        if link.op == READ_BACK:
            continue
        alike = kept and kept[-1].module == link.module and kept[-1].source == link.source
        if alike and origin not in (link, kept[-1]):
            kept[-1] = link
        elif not kept or kept[-1] != link:
            kept.append(link)
    return tuple(kept)
