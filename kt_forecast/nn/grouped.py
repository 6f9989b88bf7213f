"""Steps in groups: each reads the last few steps of its own group, itself included.

Which group a step belongs to is decided by the step alone. Sorting all steps into chunks, as
published systems do, lets a later step shift the chunks and so choose what an earlier one reads,
though no gradient shows it. Here every group has a grid of blocks of its own, counted from its
first step: where a step stands depends on the steps before it only. A step reads the part of its
own block up to itself and as much of the block before as fills the window. Time grows with the
number of steps (and its logarithm, for sorting); what a stream keeps is one window a group.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import State


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

    Args:
        group: number of each step's group, for each stream of a row (heads, say).
        state: what earlier segments left behind.
        window: steps that a step reads at most, itself included; the length of a block.
        span: where the steps stand in their sequences.

    Attributes:
        rank: how many earlier steps of the same group there are.
        number: how many blocks of the same group lie before a block.
        count: steps that each group has had afterwards.
    """

    rank: Int[Tensor, "batch stream time"]
    number: Int[Tensor, "batch stream block"]
    count: Int[Tensor, "batch stream group"]

    def __init__(
        self, group: Int[Tensor, "batch stream time"], state: Recent, window: int, span: Span
    ) -> None:
        before = state.count
        self.window, steps, groups = window, group.shape[2], before.shape[2]
        self.fresh = span.high == 0 and not torch.compiler.is_exporting()
        group = group.masked_fill(~span.real[:, None], groups)
        order = group.argsort(dim=-1, stable=True)
        own = group.gather(2, order)
        new = torch.zeros_like(before[..., :1]).expand(-1, -1, groups + 1).contiguous()
        new = new.scatter_add(2, group, torch.ones_like(group))
        known = torch.nn.functional.pad(before, (0, 1))
        first = known - new.cumsum(2) + new
        rank = torch.arange(steps, device=group.device) + first.gather(2, own)
        self.rank = torch.zeros_like(rank).scatter(2, order, rank)
        self.count = before + new[..., :-1]
        self.changed = new[..., :-1] > 0

        self.opened = before // window
        blocks = torch.where(self.changed, (self.count - 1) // window - self.opened + 1, 0)
        self.base = blocks.cumsum(2) - blocks
        most = steps // window + (1 if self.fresh else 2) * groups
        self.blocks = min(steps, most)
        column = torch.arange(self.blocks, device=group.device)
        column = column.expand(*before.shape[:2], -1).contiguous()
        owner = torch.searchsorted(blocks.cumsum(2), column, right=True).clamp_max(groups - 1)
        behind = column - self.base.gather(2, owner)
        self.owner, self.first = owner, behind == 0
        self.number = self.opened.gather(2, owner) + behind
        self.filled = (before % window).gather(2, owner)
        start = torch.nn.functional.pad(self.base - self.opened, (0, 1))
        block = start.gather(2, group) + self.rank // window
        place = block * window + self.rank % window
        self.place = place.masked_fill(group == groups, self.blocks * window)

    @property
    def visible(self) -> Bool[Tensor, "batch stream block slot twice"]:
        """Return which of the slots of the block before and of its own a slot reads."""
        slot = torch.arange(self.window, device=self.place.device)
        earlier = (slot > slot[:, None]) & (self.number > 0)[..., None, None]
        own = (slot <= slot[:, None]).expand_as(earlier)
        return torch.cat([earlier, own], -1)

    def placed(
        self, x: Shaped[Tensor, "batch stream time ..."]
    ) -> Shaped[Tensor, "batch stream block slot ..."]:
        """Put each step where it stands; zero elsewhere."""
        room = x.new_zeros(*x.shape[:2], self.blocks * self.window + 1, *x.shape[3:])
        room = room.scatter(2, _wide(self.place, x), x)
        return room[:, :, :-1].unflatten(2, (self.blocks, self.window))

    def read(
        self,
        x: Shaped[Tensor, "batch stream time ..."],
        kept: Shaped[Tensor, "batch stream group slot ..."],
    ) -> tuple[
        Shaped[Tensor, "batch stream block twice ..."],
        Shaped[Tensor, "batch stream group slot ..."],
    ]:
        """Return what the steps of each block may read, and what to keep.

        Args:
            x: of each step.
            kept: of the last steps of each group before this segment.

        Returns:
            The block before and the block itself; and the last steps of each group now.
        """
        kept = kept.to(x.dtype)
        grid = self.placed(x)
        if self.fresh:
            earlier = torch.cat([grid[:, :, :1], grid[:, :, :-1]], 2)
        else:
            held = kept.gather(2, _wide(self.owner, kept))
            slot = torch.arange(self.window, device=x.device)
            first = self.first[..., None]
            grid = torch.where(_wide(first & (slot < self.filled[..., None]), grid), held, grid)
            earlier = torch.cat([grid[:, :, :1], grid[:, :, :-1]], 2)
            earlier = torch.where(_wide(first, grid), held, earlier)
        return torch.cat([earlier, grid], 3), self._last(grid, kept)

    def taken(
        self, grid: Shaped[Tensor, "batch stream block slot ..."]
    ) -> Shaped[Tensor, "batch stream time ..."]:
        """Return what stands at the steps; the inverse of `placed`."""
        flat = grid.flatten(2, 3)
        # Padding stands nowhere.
        return flat.gather(2, _wide(self.place.clamp_max(flat.shape[2] - 1), flat))

    def _last(self, grid: Tensor, kept: Tensor) -> Tensor:
        """Return the last steps of each group after this segment."""
        slot = torch.arange(self.window, device=grid.device)
        last = ((self.count - 1) // self.window)[..., None]
        within = self.count[..., None] - last * self.window
        block = torch.where(slot < within, last, last - 1) - self.opened[..., None]
        here = (block >= 0) & self.changed[..., None]
        place = (self.base[..., None] + block) * self.window + slot
        place = torch.where(here, place, 0).flatten(2)
        flat = grid.flatten(2, 3)
        found = flat.gather(2, _wide(place, flat)).unflatten(2, kept.shape[2:4])
        return torch.where(_wide(here, kept), found, kept)


def _wide(index: Tensor, like: Tensor) -> Tensor:
    """Return an index or a mask for every number of what it points at."""
    sizes = like.shape[index.ndim :]
    return index.reshape(*index.shape, *([1] * len(sizes))).expand(*index.shape, *sizes)


def weighed(
    logits: Float[Tensor, "*batch slot twice"],
    values: Float[Tensor, "*batch twice size"],
    visible: Bool[Tensor, "*batch slot twice"],
) -> Float[Tensor, "*batch slot size"]:
    """Return the mean of the visible values, weighed by the softmax of their logits."""
    return logits.masked_fill(~visible, float("-inf")).softmax(-1) @ values
