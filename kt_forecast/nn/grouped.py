"""Steps in groups: each reads the last few steps of its own group, itself included.

Which group a step belongs to is decided by the step alone. Sorting all steps into chunks, as
published systems do, lets a later step shift the chunks and so choose what an earlier one reads,
though no gradient shows it. Here every group has blocks of its own, counted from its first step:
where a step stands depends on the steps before it only. A step reads the part of its own block up
to itself and as much of the block before as fills the window. Time grows with the number of steps
(and its logarithm, for sorting); what a stream keeps is one window a group.

The blocks of all groups and streams lie behind each other in one room, so that attention in all of
them is one product of matrices. Steps move there and back by a permutation, whose slopes move by
the opposite one: nothing is summed where nothing meets.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import State

Room = Shaped[Tensor, "row _"]
"""What stands in the slots of all blocks, one behind the other."""


@dataclass(frozen=True)
class Recent(State):
    """The last steps of each group; its step of rank r stands in slot ``r % window``.

    Attributes:
        count: steps that each group has had.
        kept: what is kept of them, one tensor for each thing; zero in slots that none has filled.
    """

    count: Int[Tensor, "batch stream group"]
    kept: tuple[Shaped[Tensor, "batch stream group slot ..."], ...]


class Groups:
    """Where the steps of a segment stand in the blocks of their groups.

    Before the first block of each stream there is one that nobody asks from; where groups have
    had steps, the block before the first that steps of the segment join stands there too.

    Args:
        group: number of each step's group, for each stream of a row (heads, say).
        state: what earlier segments left behind.
        window: steps that a step reads at most, itself included; the length of a block.
        span: where the steps stand in their sequences.

    Attributes:
        count: steps that each group has had afterwards.
        slot: where each step stands in the room, row by row and stream by stream.
    """

    slot: Int[Tensor, " several"]
    count: Int[Tensor, "batch stream group"]

    @torch.no_grad()
    def __init__(
        self, group: Int[Tensor, "batch stream time"], state: Recent, window: int, span: Span
    ) -> None:
        before = state.count
        self.window, self.fresh = window, span.high == 0 and not torch.compiler.is_exporting()
        (rows, streams, groups), steps, device = before.shape, group.shape[2], group.device
        group = group.to(torch.uint8 if groups < 2**8 else torch.int32).contiguous()
        if not span.whole:
            group = group.masked_fill(~span.real[:, None], groups)
        self.own, self.order = own, order = group.sort(dim=-1, stable=True)
        edge = torch.arange(groups + 1, dtype=group.dtype, device=device)
        edge = torch.searchsorted(own, edge.expand(rows, streams, -1).contiguous())
        self.before, self.first = before, edge[..., :-1]
        new = edge[..., 1:] - self.first
        self.count = before + new

        changed, ahead = new > 0, 0 if self.fresh else 1
        if self.fresh:
            blocks, most = (new + (window - 1)) // window, min(steps // window + groups, steps)
        else:
            blocks = (self.count - 1) // window - before // window + 1 + ahead
            blocks, some = torch.where(changed, blocks, 0), min(groups, steps)
            most = (steps - 2 * some) // window + (2 + ahead) * some
        # Padding stands in a block of its own, the last.
        self.blocks = 1 + most + (not span.whole)
        self.base = blocks.cumsum(2) - blocks + 1
        if self.fresh:
            start = self.base * window - self.first
        else:
            start = (self.base + ahead) * window + before % window - self.first
        step = torch.arange(steps, device=device)
        if not span.whole:
            start = F.pad(start, (0, 1))
        slot = start.gather(2, own.long()) + step
        if not span.whole:
            slot = slot.masked_fill(own == groups, self.blocks * window - 1)
        self.place = torch.empty_like(slot).scatter_(2, order, slot)
        self.source = slot.new_zeros(rows, streams, self.blocks * window)
        self.source.scatter_(2, slot, order)
        if not self.fresh:
            self._join_kept(changed, steps)

        begins = torch.where(changed, self.base + ahead if ahead else self.base, 0)
        stream = torch.arange(rows * streams, device=device)[:, None]
        self.slot = (self.place.flatten(0, 1) + stream * (self.blocks * window)).flatten()
        alone = torch.zeros(rows, streams, self.blocks, dtype=torch.bool, device=device)
        self.alone = alone.scatter_(2, begins, before < window)

    def labels(self, apart: int) -> Int[Tensor, "batch stream time"]:
        """Return numbers of steps that differ by their distance in a group, else by much.

        Args:
            apart: how much the numbers of two groups' first steps differ.
        """
        group = torch.arange(self.before.shape[2], device=self.before.device)
        start = F.pad(group * apart + self.before - self.first, (0, 1))
        step = torch.arange(self.order.shape[2], device=self.order.device)
        label = start.gather(2, self.own.long()) + step
        return torch.empty_like(label).scatter_(2, self.order, label)

    @property
    def hidden(self) -> Bool[Tensor, "block slot twice"]:
        """Return which of the slots of the block before and of its own a slot does not read."""
        window, alone = self.window, self.alone.flatten()[1:, None, None]
        outside = alone.new_ones(window, 2 * window).tril()
        outside = outside.logical_or_(alone.new_ones(window, 2 * window).triu_(window + 1))
        hidden = outside.expand(len(alone), -1, -1).clone()
        hidden[..., :window].logical_or_(alone)
        return hidden

    def placed(
        self,
        x: Shaped[Tensor, "batch some time size"],
        kept: Shaped[Tensor, "batch stream group slot _"],
    ) -> Room:
        """Put each step where it stands.

        Where no step stands is what no step reads: another one of the same row, so that it is
        known no later.

        Args:
            x: of each step; the same for several streams that follow each other if there are fewer.
            kept: of the last steps of each group before this segment; the first of what ``x`` has.
        """
        streams = self.place.shape[1]
        if not self.fresh:
            x = x.repeat_interleave(streams // x.shape[1], 1)
            more = F.pad(kept.to(x.dtype), (0, x.shape[3] - kept.shape[4]))
            x = torch.cat([x, more.flatten(2, 3)], 2)
        rows = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(*x.shape[:2], 1, 1)
        source = self.source.unflatten(1, (x.shape[1], -1)) + rows * x.shape[2]
        flat = x.flatten(0, 2)
        if not (self.fresh and torch.is_grad_enabled() and x.requires_grad):
            return flat.index_select(0, source.flatten())
        room: Tensor = _Placed.apply(flat, source.flatten(), self.slot, x.shape)  # type: ignore[no-untyped-call]
        return room

    def taken(
        self, found: Float[Tensor, "several size"]
    ) -> Float[Tensor, "batch stream time size"]:
        """Return what was found in the slots where steps stand; see `near`."""
        slot = self.slot - self.window
        if not (torch.is_grad_enabled() and found.requires_grad):
            taken = found.index_select(0, slot)
        else:
            taken = _Taken.apply(found, slot)  # type: ignore[no-untyped-call]
        return taken.unflatten(0, self.place.shape)

    def last(
        self,
        x: Shaped[Tensor, "batch stream time size"],
        kept: Shaped[Tensor, "batch stream group slot size"],
    ) -> Shaped[Tensor, "batch stream group slot size"]:
        """Return what to keep: of the last steps of each group after this segment."""
        slot = torch.arange(self.window, device=x.device)
        last = self.count[..., None] - 1
        rank = last - (last - slot) % self.window
        here = rank >= self.before[..., None]
        place = torch.where(here, rank - self.before[..., None] + self.first[..., None], 0)
        step = self.order.gather(2, place.flatten(2))[..., None].expand(-1, -1, -1, x.shape[3])
        found = x.gather(2, step).unflatten(2, kept.shape[2:4])
        return torch.where(here[..., None], found, kept.to(x.dtype))

    def _join_kept(self, changed: Tensor, steps: int) -> None:
        """Let the last steps of groups that were joined stand before the steps of the segment."""
        slot = torch.arange(self.window, device=changed.device)
        open_ = slot < (self.before % self.window)[..., None]
        block = torch.where(open_, self.base[..., None] + 1, self.base[..., None])
        # What is kept of a group that none has joined stands in the block that nobody asks from.
        place = torch.where(changed[..., None], block, 0) * self.window + slot
        kept = torch.arange(place[0, 0].numel(), device=changed.device) + steps
        place = place.flatten(2)
        self.source.scatter_(2, place, kept.expand_as(place))


def near(
    room: Room,
    size: int,
    hidden: Bool[Tensor, "block slot twice"],
    less: Float[Tensor, "*block slot twice"] | None = None,
) -> tuple[Float[Tensor, "several {size}"], Float[Tensor, "several 1"]]:
    """Return what the slots of each block but the first read of the block before and of their own.

    Args:
        room: keys, values and, unless keys are queries, queries, side by side.
        size: numbers of each of them.
        hidden: what they do not read.
        less: what is taken off the logits.

    Returns:
        What each slot read; and the logarithm of what its weights summed to, before they were
        made to sum to one.
    """
    with torch.autocast(room.device.type, enabled=False):
        if torch.is_grad_enabled() and room.requires_grad:
            read, total = _Near.apply(room, size, hidden, less)  # type: ignore[no-untyped-call]
            return read, total
        return _near(room, size, hidden, less)[:2]


def _near(
    room: Tensor, size: int, hidden: Tensor, less: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = _parts(room, size, hidden.shape[1])
    if less is None:
        logits = torch.bmm(query, key.mT)
    else:
        logits = torch.baddbmm(less, query, key.mT, beta=-1)
    # What is no number stays unseen where it is hidden.
    logits = logits.masked_fill_(hidden, float("-inf"))
    weight = logits.softmax(-1)
    total = logits.amax(-1) - weight.amax(-1).log()
    return torch.bmm(weight, value).flatten(0, 1), total.reshape(-1, 1), weight


def _parts(room: Tensor, size: int, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries of each block but the first, and keys and values of it and the one before."""
    twice = room.unfold(0, 2 * window, window).mT
    at = 2 * size if room.shape[1] > 2 * size else 0
    query = room[window:, at : at + size].unflatten(0, (-1, window))
    return query, twice[..., :size], twice[..., size : 2 * size]


def _to_room(
    room: Tensor, weight: Tensor, size: int, to_read: Tensor, to_total: Tensor | None
) -> Tensor:
    """Return the slopes in the room from those in what was read."""
    window = weight.shape[1]
    query, key, value = _parts(room, size, window)
    to_read = to_read.unflatten(0, (-1, window))
    to_weight = torch.bmm(to_read, value.mT)
    to_logits = torch.ops.aten._softmax_backward_data(to_weight, weight, -1, weight.dtype)  # noqa: SLF001
    if to_total is not None:
        to_logits = to_logits.addcmul_(weight, to_total.unflatten(0, (-1, window)))
    to_query = torch.bmm(to_logits, key).flatten(0, 1)
    both = [torch.bmm(to_logits.mT, query), torch.bmm(weight.mT, to_read)]
    pairs = torch.cat(both, -1)
    to_room = torch.zeros_like(room)
    to_room[:-window, : 2 * size] = pairs[:, :window].flatten(0, 1)
    to_room[window:, : 2 * size].add_(pairs[:, window:].flatten(0, 1))
    at = 2 * size if room.shape[1] > 2 * size else 0
    to_room[window:, at : at + size].add_(to_query)
    return to_room


class _Near(torch.autograd.Function):
    """Attention of which only the weights are kept."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        room: Tensor,
        size: int,
        hidden: Tensor,
        less: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        read, total, weight = _near(room, size, hidden, less)
        ctx.size = size
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(room, weight)
        return read, total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        to_read: Tensor | None,
        to_total: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        room, weight = ctx.saved_tensors
        if to_read is None:
            to_read = room.new_zeros(len(room) - weight.shape[1], ctx.size)
        with torch.autocast(room.device.type, enabled=False):
            return _to_room(room, weight, ctx.size, to_read, to_total), None, None, None


class _Placed(torch.autograd.Function):
    """Rows in other places; every row whose slopes matter stands in one place of each stream."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        source: Tensor,
        slot: Tensor,
        shape: torch.Size,
    ) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.shape = shape
        return x.index_select(0, source)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (slot,) = ctx.saved_tensors
        rows, some, steps, size = ctx.shape
        found = slope.index_select(0, slot).reshape(rows * some, -1, steps, size)
        found = found.sum(1) if found.shape[1] > 1 else found
        return found.reshape(-1, size), None, None, None


class _Taken(torch.autograd.Function):
    """Rows of which each is taken once at most."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slot: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(slot)
        ctx.rows = len(x)
        return x.index_select(0, slot)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (slot,) = ctx.saved_tensors
        return slope.new_zeros(ctx.rows, slope.shape[1]).index_copy_(0, slot, slope), None
