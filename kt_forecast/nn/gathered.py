"""Attention of blocks of steps to the steps that a table names for each block.

A table is a function of a block's number, which is counted from each sequence's first step: so
what a step reads never depends on how long the sequence is, nor on how a stream was cut. Keys and
values are gathered for a few blocks at a time, and again for the backward pass, so that neither a
weight nor a mask of all pairs of steps is ever there.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint

from kt_forecast.nn.attention import Rotary
from kt_forecast.nn.rates import trailing
from kt_forecast.nn.relative import Grid
from kt_forecast.nn.streams import Span, appended

KEYS_AT_ONCE = 2**13
"""Keys gathered at a time, for each head of each sequence."""
KEYS_KEPT = 2**12
"""As many keys, and more, are gathered again for the backward pass rather than kept."""
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

    Returns:
        What each query read: zero where there was nothing.
    """
    some = max(KEYS_AT_ONCE // max(read.shape[-1], 1), 1)
    since = read if since is None else since
    cut = (q.split(some, 2), place.split(some, 1), read.split(some, 2), since.split(some, 2))
    again = torch.is_grad_enabled() and q.shape[2] * read.shape[-1] >= KEYS_KEPT
    pieces = []
    for query, where, keys, begin in zip(*cut, strict=True):
        args = (query, k, v, where, keys, begin, first)
        pieces.append(
            checkpoint(_attended, *args, use_reentrant=False) if again else _attended(*args)
        )
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)


def _attended(
    q: Tensor, k: Tensor, v: Tensor, place: Tensor, read: Tensor, since: Tensor, first: Tensor
) -> Tensor:
    batch, heads, blocks, length = q.shape[:4]
    slot = read - first[:, None, None, None]
    there = (read >= 0) & (slot >= 0) & (slot < k.shape[2])
    visible = there[..., None, :] & (since[..., None, :] <= place[:, None, :, :, None])
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
    """Return the slots of each block: (batch, head, block, some, size)."""
    if slot.shape[:2] == (1, 1):
        return x.index_select(2, slot.flatten()).unflatten(2, slot.shape[2:])
    index = slot.expand(*x.shape[:2], *slot.shape[2:]).flatten(2)
    picked = x.gather(2, index[..., None].expand(-1, -1, -1, x.shape[3]))
    return picked.unflatten(2, slot.shape[2:])


class GatheredAttention(nn.Module):
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
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.block, self.table, self.reach = block, table, reach
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.rotary = Rotary(self.size)

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
        query = self._joined(self.rotary(self._split(self.query(x)), span.position))
        key, value = self.key_value(x).chunk(2, -1)
        key = self._joined(self.rotary(self._split(key), span.position))
        new = torch.cat([key, value], -1)
        if self.reach is None:
            both = state = appended(state[:, None], new[:, None], span)[:, 0]
            first = torch.zeros_like(span.before)
        else:
            both = torch.cat([state, new], 1)
            state = trailing(both, self.reach, span)
            first = span.before - self.reach
        if span.low == span.high:
            first = first[:1]
        key, value = (self._split(half) for half in both.chunk(2, -1))
        return self.out(self._read(query, key, value, first, span)), state

    def _read(self, query: Tensor, key: Tensor, value: Tensor, first: Tensor, span: Span) -> Tensor:
        grid = Grid.laid(span, self.block, 0)
        if span.length == 1:
            before = span.before[: len(first)]
            place, number = before[:, None, None], before[:, None] // self.block
            q = self._split(query)[:, :, None]
        else:
            column = torch.arange(grid.segments * self.block, device=query.device)
            place = (grid.first[:, None] + column).unflatten(1, (-1, self.block))
            number = place[..., 0] // self.block
            q = self._split(grid.columns(query)).unflatten(2, (-1, self.block))
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

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.size)).transpose(1, 2)

    def _joined(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(-2)


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
