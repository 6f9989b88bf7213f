"""Attention of blocks of steps to the steps that a table names for each block.

A table is a function of a block's number, which is counted from each sequence's first step: so
what a step reads never depends on how long the sequence is, nor on how a stream was cut. Keys and
values are gathered for as many blocks as memory bears, which on a GPU takes one launch, and neither
a weight nor a mask of all pairs of steps is ever there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint

from kt_forecast.nn.heads import Heads, begins, joined
from kt_forecast.nn.rates import trailing
from kt_forecast.nn.relative import Grid
from kt_forecast.nn.streams import Span, appended

NUMBERS_AT_ONCE = 2**28
"""Numbers of keys and values gathered at a time, and kept for the backward pass.

Those of more are gathered again for it.
"""
UNUSED = -1
"""What stands in a table where there is nothing to read."""

Table = Callable[[Tensor], Tensor]
"""Maps numbers of blocks (row, block) to what they read: (row, #head, block, some)."""


def steps_of(blocks: Int[Tensor, "*batch some"], size: int) -> Int[Tensor, "*batch several"]:
    """Return the places of the steps of blocks; those of an unused block are unused."""
    steps = blocks[..., None] * size + torch.arange(size, device=blocks.device)
    return steps.where(blocks[..., None] >= 0, UNUSED).flatten(-2)


def gathered(
    q: Float[Tensor, "batch head block length size"],
    k: Float[Tensor, "batch head slot size"],
    v: Float[Tensor, "batch head slot size"],
    place: Int[Tensor, "#batch block length"],
    read: Int[Tensor, "#batch #head block some"],
    first: Int[Tensor, " #batch"],
    since: Int[Tensor, "#batch #head block some"] | None = None,
    *,
    keep: bool = True,
) -> Float[Tensor, "batch head block length size"]:
    """Let each query read those of its block's keys that do not stand after it.

    Args:
        q: queries, in blocks.
        k: keys.
        v: values.
        place: where each query stands in its sequence.
        read: places of the keys of each block, none of them twice; -1 for none.
        first: place of the first slot.
        since: the first place from which each key may be read; by default its own.
        keep: whether what was gathered may be kept for the backward pass; not so where a longer
            sequence's blocks read more.

    Returns:
        What each query read: zero where there was nothing.
    """
    since = read if since is None else since
    each = max(2 * q.shape[0] * q.shape[1] * read.shape[-1] * k.shape[-1], 1)
    some = max(NUMBERS_AT_ONCE // each, 1)
    again = torch.is_grad_enabled() and not (keep and q.shape[2] <= some)
    if q.shape[2] <= some and not again:
        return _attended(q, k, v, place, read, since, first)
    pieces = []
    cut = (q.split(some, 2), place.split(some, 1), read.split(some, 2), since.split(some, 2))
    for query, where, keys, begin in zip(*cut, strict=True):
        args = (query, k, v, where, keys, begin, first)
        pieces.append(
            checkpoint(_attended, *args, use_reentrant=False, preserve_rng_state=False)
            if again
            else _attended(*args)
        )
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)


def _attended(
    q: Tensor, k: Tensor, v: Tensor, place: Tensor, read: Tensor, since: Tensor, first: Tensor
) -> Tensor:
    batch, heads, blocks, length = q.shape[:4]
    slot = read - first[:, None, None, None]
    there = (read >= 0) & (slot >= 0) & (slot < k.shape[2])
    # A place after every query is one that none of them reads.
    since = since.where(there, torch.iinfo(since.dtype).max)
    visible = since[..., None, :] <= place[:, None, :, :, None]
    slot = slot.clamp(0, k.shape[2] - 1)
    if visible.shape[:2] != (1, 1):
        visible = visible.expand(batch, heads, *visible.shape[2:])
    # Blocks stand where the fused kernels expect heads: these take four axes only.
    y = F.scaled_dot_product_attention(
        q.flatten(0, 1),
        _picked(k, slot).flatten(0, 1),
        _picked(v, slot).flatten(0, 1),
        attn_mask=visible.flatten(0, 1),
    )
    return y.reshape(batch, heads, blocks, length, -1)


def _picked(x: Tensor, slot: Tensor) -> Tensor:
    """Return the slots of each block: (batch, head, block, some, size).

    Whole rows are picked by one number each, and their gradients added in place: other ways read
    a number for each number of a row, or sort them for the backward pass.
    """
    if slot.shape[:2] == (1, 1):
        return x.index_select(2, slot.flatten()).unflatten(2, slot.shape[2:])
    batch, heads, slots, size = x.shape
    begin = torch.arange(batch * heads, device=x.device).view(batch, heads, 1, 1) * slots
    picked = x.reshape(-1, size).index_select(0, (begin + slot).flatten())
    return picked.view(batch, heads, *slot.shape[2:], size)


@dataclass(frozen=True)
class Laid:
    """The blocks of a sequence from its beginning; those of a shorter one are the first of them.

    Attributes:
        place: where each step stands.
        number: of each block.
        read: places of the steps that each block reads.
    """

    place: Int[Tensor, "1 block length"]
    number: Int[Tensor, "1 block"]
    read: Int[Tensor, "1 #head block some"]

    @classmethod
    @torch.inference_mode(mode=False)  # what validation asks for first is kept for training
    def of(cls, table: Table, block: int, blocks: int, device: torch.device) -> "Laid":
        """Lay out so many blocks."""
        number = torch.arange(blocks, device=device)[None]
        place = torch.arange(blocks * block, device=device).view(1, blocks, block)
        return cls(place, number, table(number))

    def serves(self, query: Tensor, blocks: int) -> bool:
        """Return whether there are so many blocks, where the queries are and of their kind."""
        there = type(self.number) is type(query) and self.number.device == query.device
        return there and self.number.shape[1] >= blocks and not torch.compiler.is_compiling()


class GatheredAttention(Heads):
    """Multi-head attention by a table of blocks; see `kt_forecast.nn.stack.Mixing`.

    Args:
        width: numbers in a step's vector.
        heads: must divide ``width`` into even sizes.
        block: steps of a block of queries.
        table: maps numbers of blocks to the places of the steps that they read; a step's own place
            is always among them.
        reach: steps back from a step to the farthest that its block reads; None for no bound.
    """

    def __init__(
        self, width: int, heads: int, *, block: int, table: Table, reach: int | None
    ) -> None:
        super().__init__(width, heads)
        self.block, self.table, self.reach = block, table, reach
        self._laid: Laid | None = None

    def init_state(self, batch: int) -> Float[Tensor, "batch kept both"]:
        """Return what is kept before the first step: rotated keys and values, side by side."""
        return self.out.weight.new_zeros(batch, self.reach or 0, 2 * self.heads * self.size)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: Float[Tensor, "batch kept both"],
        span: Span,
    ) -> tuple[Float[Tensor, "batch time width"], Float[Tensor, "batch kept_now both"]]:
        """Return what each step read, and the keys and values to keep."""
        query, key, value = self.mapped(x, span)
        if span.ends and span.length > 1:
            return self.out(self._begun(query, key, value, span)), state
        new = self.beside(key, value)
        if self.reach is None:
            both = state = appended(state[:, None], new[:, None], span)[:, 0]
            first = torch.zeros_like(span.before)
        else:
            both = torch.cat([state, new], 1)
            state = trailing(both, self.reach, span)
            first = span.before - self.reach
        if begins(span) and span.length > 1:
            return self.out(self._begun(query, key, value, span)), state
        if span.low == span.high:
            first = first[:1]
        return self.out(self._read(joined(query), *self.halves(both), first, span)), state

    def _begun(self, query: Tensor, key: Tensor, value: Tensor, span: Span) -> Tensor:
        """Read in sequences that begin, whose own steps are all that there is."""
        blocks = -(-span.length // self.block)
        q = F.pad(query, (0, 0, 0, blocks * self.block - span.length))
        laid = self._laid
        if laid is None or not laid.serves(query, blocks):
            laid = Laid.of(self.table, self.block, blocks, query.device)
            if not torch.compiler.is_compiling():
                self._laid = laid
        place, number, read = laid.place[:, :blocks], laid.number[:, :blocks], laid.read
        read = read[:, :, :blocks]
        first = torch.zeros_like(span.before[:1])
        since = self.since(read, number, span)
        y = gathered(q.unflatten(2, (-1, self.block)), key, value, place, read, first, since)
        return y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, : span.length].flatten(2)

    def _read(self, query: Tensor, key: Tensor, value: Tensor, first: Tensor, span: Span) -> Tensor:
        grid = Grid.laid(span, self.block, 0)
        if span.length == 1:
            before = span.before[: len(first)]
            place, number = before[:, None, None], before[:, None] // self.block
            q = self.split(query)[:, :, None]
        else:
            column = torch.arange(grid.segments * self.block, device=query.device)
            place = (grid.first[:, None] + column).unflatten(1, (-1, self.block))
            number = place[..., 0] // self.block
            q = self.split(grid.columns(query)).unflatten(2, (-1, self.block))
        read = self.table(number)
        y = gathered(q, key, value, place, read, first, self.since(read, number, span))
        y = y.permute(0, 2, 3, 1, 4).flatten(3)
        return y[:, 0] if span.length == 1 else grid.steps(y)

    def since(
        self,
        read: Int[Tensor, "#row #head block some"],
        number: Int[Tensor, "row block"],  # noqa: ARG002
        span: Span,  # noqa: ARG002
    ) -> Int[Tensor, "#batch #head block some"]:
        """Return the first place from which each key may be read: its own."""
        return read


def block_mask(blocks: Int[Tensor, "batch head block some"], size: int, steps: int) -> BlockMask:
    """Return a table of blocks for FlexAttention, without a look at pairs of steps.

    Args:
        blocks: numbers of the blocks that each block reads, none of them twice; -1 for none.
        size: steps of a block.
        steps: of a sequence; the last block may be short.
    """
    last = blocks.shape[2] - 1
    order = blocks.where(blocks >= 0, last + 1).sort(-1).values
    count = (order <= last).sum(-1).int()
    index = F.pad(order, (0, max(last + 1 - order.shape[-1], 0)), value=last)[..., : last + 1]

    def past(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:  # noqa: ARG001
        return key <= query

    return BlockMask.from_kv_blocks(
        count,
        index.clamp_max(last).int(),
        BLOCK_SIZE=size,
        mask_mod=past,
        seq_lengths=(steps, steps),
    )
