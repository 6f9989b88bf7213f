"""Where shadows are kept: by storage, so that every view of a tensor sees what is written to it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakTensorKeyDictionary

from kt_forecast.audit.dependency.labels import NONE, Shadow, every, greatest
from kt_forecast.audit.dependency.locate import READ_BACK, Node

PURGE = 4096
"""Storages to remember before the dead ones are forgotten."""


@dataclass(slots=True)
class Cell:
    """What is known of one storage.

    Until something is written in place, the tensor that owns the storage has its shadow and each
    view another, derived by the same operation; labels that repeat then stay thin. From the first
    write on, ``flat`` holds one entry for each smallest item and all views are read from it.
    """

    layout: tuple[torch.Size, tuple[int, ...], int]
    shadow: Shadow
    uniform: bool
    itemsize: int
    storage: StorageWeakRef
    flat: Shadow | None = None
    written: list[Node] = field(default_factory=list)


class Memory:
    """Shadows of all tensors of a run.

    Args:
        born: the shadow of a tensor that no operation made: an input, a parameter, a constant.
    """

    def __init__(self, born: Callable[[Tensor], Shadow]) -> None:
        self._born = born
        self._views: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._cells: dict[int, Cell] = {}
        self._limit = PURGE

    def __contains__(self, x: Tensor) -> bool:
        """Return whether a tensor or its storage has been seen."""
        key = address(x)
        return x in self._views or (key is not None and key in self._cells)

    def meet(self, x: Tensor) -> None:
        """Note what a tensor is when it is first seen, before an operation may change it."""
        if x not in self._views and x not in self:
            self.get(x)

    def get(self, x: Tensor) -> Shadow:
        """Return the shadow of a tensor."""
        key = address(x)
        cell = self._cells.get(key) if key is not None else None
        if cell is not None and cell.flat is not None:
            self._flatten(cell, x)
            return _read(cell, x)
        found = self._views.get(x)
        if found is not None and found.latest.shape == x.shape:
            return found
        if cell is None:
            shadow = self._born(x)
            self.put(x, shadow, uniform=True)
            return shadow
        if cell.uniform:
            return Shadow(
                cell.shadow.latest.reshape(-1)[:1].reshape([1] * x.ndim).expand(x.shape),
                cell.shadow.known.reshape(-1)[:1].reshape([1] * x.ndim).expand(x.shape),
                cell.shadow.node,
            )
        self._flatten(cell, x)
        return _read(cell, x)

    def put(self, x: Tensor, shadow: Shadow, *, uniform: bool = False) -> None:
        """Give a tensor its shadow: one just computed, or a view of another."""
        key = address(x)
        cell = self._cells.get(key) if key is not None else None
        if cell is None or cell.flat is None:
            self._views[x] = shadow
        if cell is None and key is not None:
            self._purge()
            layout = (x.shape, x.stride(), int(x.storage_offset()))
            uniform = uniform or x.numel() == 0
            self._cells[key] = Cell(
                layout, shadow, uniform, x.element_size(), StorageWeakRef(x.untyped_storage())
            )

    def write(self, x: Tensor, shadow: Shadow) -> None:
        """Record that a tensor was overwritten in place; all views of its storage see it."""
        key = address(x)
        cell = self._cells.get(key) if key is not None else None
        if key is None:
            self._views[x] = shadow.expand(x.shape)
            return
        if cell is None:
            self.get(x)
            cell = self._cells[key]
        self._flatten(cell, x)
        flat = cell.flat
        assert flat is not None  # noqa: S101 - just made
        _view(flat.latest, cell, x).copy_(shadow.latest.expand(x.shape)[..., None])
        _view(flat.known, cell, x).copy_(shadow.known.expand(x.shape)[..., None])
        if shadow.node is not None:
            cell.written.append(shadow.node)

    def is_written(self, x: Tensor) -> bool:
        """Return whether the storage of a tensor was written in place, so that views are read."""
        key = address(x)
        cell = self._cells.get(key) if key is not None else None
        return cell is not None and cell.flat is not None

    def replace(self, x: Tensor, shadow: Shadow) -> None:
        """Forget what was known of a tensor whose storage was exchanged or resized."""
        key = address(x)
        if key is not None:
            self._cells.pop(key, None)
        self.put(x, shadow)

    def forget_layout(self, x: Tensor) -> None:
        """Prepare for an operation that changes the shape of a tensor in place."""
        key = address(x)
        if key is None:
            return
        self.get(x)
        self._flatten(self._cells[key], x)

    def _flatten(self, cell: Cell, x: Tensor) -> None:
        """Give the storage of a tensor one entry an item, of the finest item met so far."""
        itemsize = min(cell.itemsize, x.element_size())
        if cell.flat is not None and itemsize == cell.itemsize:
            return
        if cell.flat is not None:
            times = cell.itemsize // itemsize
            latest = cell.flat.latest.repeat_interleave(times)
            cell.flat = Shadow(latest, cell.flat.known.repeat_interleave(times))
            cell.itemsize = itemsize
            return
        items = x.untyped_storage().nbytes() // cell.itemsize
        shadow = cell.shadow
        start = _first(shadow) if cell.uniform and shadow.latest.numel() else (NONE, False)
        latest = shadow.latest.new_full((items,), start[0])
        known = shadow.known.new_full((items,), start[1])
        if not cell.uniform:
            latest.as_strided(*cell.layout).copy_(shadow.latest)
            known.as_strided(*cell.layout).copy_(shadow.known)
        cell.flat = Shadow(latest, known)
        if shadow.node is not None:
            cell.written.append(shadow.node)
        self._flatten(cell, x)

    def _purge(self) -> None:
        if len(self._cells) < self._limit:
            return
        self._cells = {key: cell for key, cell in self._cells.items() if not cell.storage.expired()}
        self._limit = 2 * len(self._cells) + PURGE


def _first(shadow: Shadow) -> tuple[int, bool]:
    return int(shadow.latest.reshape(-1)[0]), bool(shadow.known.reshape(-1)[0])


def address(x: Tensor) -> int | None:
    """Return the address of a storage; a cell keeps it from being used again."""
    try:
        return x.untyped_storage()._cdata  # noqa: SLF001 - the identity of a storage
    except (NotImplementedError, RuntimeError):
        return None


def _view(flat: Tensor, cell: Cell, x: Tensor) -> Tensor:
    """Return the entries of a tensor, with the smallest items of each element on a last axis."""
    items = max(1, x.element_size() // cell.itemsize)
    stride = [step * items for step in x.stride()]
    return flat.as_strided([*x.shape, items], [*stride, 1], x.storage_offset() * items)


def _read(cell: Cell, x: Tensor) -> Shadow:
    flat = cell.flat
    assert flat is not None  # noqa: S101 - asked for written storages only
    latest, known = _view(flat.latest, cell, x), _view(flat.known, cell, x)
    if latest.shape[-1] == 1:
        shadow = Shadow(latest[..., 0].clone(), known[..., 0].clone())
    else:
        shadow = Shadow(greatest(latest, [-1], keep=False), every(known, [-1], keep=False))
    if cell.written:
        shadow.node = _gathered(cell, x, shadow)
    return shadow


def _gathered(cell: Cell, x: Tensor, shadow: Shadow) -> Node:
    """Return the node of a read from a storage that several operations wrote to."""
    if len(cell.written) == 1 and cell.written[0].covers(x.numel()):
        return cell.written[0]
    node = Node(READ_BACK, "", None, [s for n in cell.written for s in n.outputs])
    node.outputs.append(shadow)
    flat = cell.flat
    if flat is not None and x.numel() == flat.latest.numel():
        cell.written = [node]
    return node
