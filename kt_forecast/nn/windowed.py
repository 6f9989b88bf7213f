"""Softmax over a window of steps, in blocks: no logit beyond the window's blocks is ever formed.

A block's steps read the slots of their own block and as many before it as the window looks back.
The first block stands apart: only there may a slot lie before its sequence's beginning.

Queries are those of the steps of a segment. Keys and values are those of the steps kept before it,
oldest first, and then of the segment's own steps: slot ``i`` of ``back`` kept ones is the step
``back - i`` steps before the first. Real steps stand on the left; what padding reads is
meaningless, and no real step reads padding.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Steps = Float[Tensor, "batch head time size"]
Slots = Float[Tensor, "batch head both size"]


@dataclass(frozen=True)
class Beside:
    """Further slots, which stand outside the window.

    Attributes:
        key: of every slot.
        value: of every slot.
        visible: which steps read which slots; None for every one.
    """

    key: Float[Tensor, "some head row size"]
    value: Float[Tensor, "some head row size"]
    visible: Bool[Tensor, "#some #head time row"] | None = None


def windowed(
    query: Steps,
    key: Slots,
    value: Slots,
    window: int,
    *,
    before: Int[Tensor, " batch"] | None = None,
    group: Int[Tensor, "#batch #head both"] | None = None,
    beside: Beside | None = None,
) -> Steps:
    """Return what each step reads of the latest ``window`` steps, itself included.

    Args:
        query: of the segment's steps.
        key: of the kept slots and the segment's steps.
        value: as ``key``.
        window: any number; one at least as large as ``both`` gives full causal attention.
        before: steps that each row has seen: a kept slot before its row's first step is not read.
            None where every kept slot holds a step, or none was kept.
        group: a number for every slot: steps read slots of their own group only.
        beside: further slots; a step that is among them and in the window is read twice unless
            ``visible`` says otherwise.
    """
    size = window if beside is None else max(window, beside.key.shape[2])
    pieces = []
    for part in _parts(query.shape[2], key.shape[2], window, size):
        q, k, v = part.steps(query), part.slots(key), part.slots(value)
        triangle = part.low == part.back == 0 and part.size <= window
        if triangle and group is None and beside is None:
            pieces.append(_fused(q, k, v, None))
            continue
        visible = part.visible(part.ago(query.device), window, before)
        if group is not None:
            own = group[:, :, part.back :]
            visible = visible & (part.steps(own[..., None]) == part.slots(group[..., None]).mT)
        if beside is not None:
            k, v, visible = _with_beside(part, k, v, visible, beside)
        pieces.append(_fused(q, k, v, visible))
    return _pasted(pieces, query.shape[2])


def weighed(
    query: Steps,
    key: Slots,
    value: Slots,
    window: int,
    *,
    before: Int[Tensor, " batch"] | None = None,
    bias: Float[Tensor, "head window"] | None = None,
    beside: tuple[Float[Tensor, "batch head time row"], Float[Tensor, "some head row size"]]
    | None = None,
) -> Steps:
    """Do as `windowed`, with numbers added to the logits that may be learned.

    Fused attention would hold the weights of all pairs of steps to learn them. Here those of the
    window's blocks are formed again for the backward pass.

    Args:
        query: as for `windowed`.
        key: as for `windowed`.
        value: as for `windowed`.
        window: as for `windowed`.
        before: as for `windowed`.
        bias: what is added to the logit of the step so many steps ago; minus infinity hides it.
        beside: the logits of further slots, which all steps read, and their values.
    """
    size = window if beside is None else max(window, beside[1].shape[2])
    pieces = []
    for part in _parts(query.shape[2], key.shape[2], window, size):
        added = query.new_zeros(()) if bias is None else part.by_distance(bias)[:, None]
        if bias is None or part.begins_in(before):
            visible = part.visible(part.ago(query.device), window, before)
            added = added.where(visible, float("-inf"))
        args = [part.steps(query), part.slots(key), part.slots(value), added]
        if beside is not None:
            args += [part.steps(beside[0]), beside[1][:, :, None]]
        if torch.is_grad_enabled():
            pieces.append(checkpoint(_added, *args, use_reentrant=False, preserve_rng_state=False))
        else:
            pieces.append(_added(*args))
    return _pasted(pieces, query.shape[2])


def phases(
    x: Shaped[Tensor, "batch head time size"], dilation: int
) -> Shaped[Tensor, "several head fewer size"]:
    """Return every ``dilation``-th step as a sequence of its own: row by row, phase by phase.

    Zeros complete the last of them.
    """
    missing = -x.shape[2] % dilation
    return _padded(x, missing).unflatten(2, (-1, dilation)).movedim(3, 1).flatten(0, 1)


def in_phase(
    y: Float[Tensor, "several head fewer size"], dilation: int, steps: int
) -> Float[Tensor, "batch head {steps} size"]:
    """Undo `phases` for a sequence of ``steps`` steps."""
    return y.unflatten(0, (-1, dilation)).movedim(1, 3).flatten(2, 3)[:, :, :steps]


def in_phases(
    before: Int[Tensor, " batch"] | None, dilation: int
) -> Int[Tensor, " several"] | None:
    """Return how many steps each sequence that `phases` makes has seen; None for None."""
    if before is None:
        return None
    ahead = torch.arange(dilation, device=before.device)
    return ((before[:, None] + ahead) // dilation).flatten()


@dataclass(frozen=True)
class _Part:
    """Blocks of equal size that follow each other.

    Attributes:
        back: slots kept before the segment.
        low: the first block's first step.
        start: the first slot that it reads.
        size: steps of a block.
        reach: slots that a block reads.
        count: blocks.
    """

    back: int
    low: int
    start: int
    size: int
    reach: int
    count: int

    def steps(self, x: Tensor) -> Tensor:
        """Cut what there is of every step: batch, head, block, step, size."""
        x = x[:, :, self.low : self.low + self.count * self.size]
        return _padded(x, self.count * self.size - x.shape[2]).unflatten(2, (self.count, self.size))

    def slots(self, x: Tensor) -> Tensor:
        """Cut what there is of every slot: batch, head, block, slot, size."""
        needed = (self.count - 1) * self.size + self.reach
        x = x[:, :, self.start : self.start + needed]
        return _padded(x, needed - x.shape[2]).unfold(2, self.reach, self.size).mT

    def ago(self, device: torch.device) -> Int[Tensor, "step slot"]:
        """Return how many steps each slot of a block lies before each of its steps."""
        step = torch.arange(self.size, device=device)[:, None] + self.back + self.low - self.start
        return step - torch.arange(self.reach, device=device)

    def by_distance(self, bias: Float[Tensor, "head window"]) -> Float[Tensor, "head step slot"]:
        """Return the number of each slot's distance from each step; minus infinity outside."""
        apart = self.back + self.low - self.start
        around = (self.size + apart - bias.shape[1], self.reach - 1 - apart)
        row = F.pad(bias.flip(1), around, value=float("-inf"))
        return row.unfold(1, self.reach, 1).flip(1)

    def begins_in(self, before: Int[Tensor, " batch"] | None) -> bool:
        """Return whether some of the slots may stand before a sequence's first step."""
        return before is not None and self.low == 0 and self.back > 0

    def visible(
        self, ago: Int[Tensor, "step slot"], window: int, before: Int[Tensor, " batch"] | None
    ) -> Bool[Tensor, "#batch 1 1 step slot"]:
        """Return which slots a block's steps may read."""
        visible = ((ago >= 0) & (ago < window))[None, None, None]
        if before is None or not self.begins_in(before):
            return visible
        slot = torch.arange(self.reach, device=ago.device) + self.start - self.back
        return visible & (before[:, None] + slot >= 0)[:, None, None, None]


def _parts(steps: int, both: int, window: int, size: int) -> Iterator[_Part]:
    """Yield the first block, and those after it if there are any."""
    back = both - steps
    start = max(0, back - window + 1)
    first = min(steps, size)
    yield _Part(back, 0, start, first, back + first - start, 1)
    if steps > size:
        start = back + size - window + 1
        yield _Part(back, size, start, size, size + window - 1, -(-steps // size) - 1)


def _padded(x: Tensor, missing: int) -> Tensor:
    return F.pad(x, (0, 0, 0, missing)) if missing else x


def _pasted(pieces: list[Tensor], steps: int) -> Tensor:
    """Put the steps of all blocks behind each other, without those that completed the last."""
    flat = [piece.flatten(2, 3) for piece in pieces]
    return (flat[0] if len(flat) == 1 else torch.cat(flat, 2))[:, :, :steps]


def _with_beside(
    part: _Part, key: Tensor, value: Tensor, visible: Tensor, beside: Beside
) -> tuple[Tensor, Tensor, Tensor]:
    """Put the further slots before those of every block."""
    seen = visible.new_ones(1, 1, 1, 1, beside.key.shape[2])
    if beside.visible is not None:
        seen = part.steps(beside.visible)
    shape = torch.broadcast_shapes(seen.shape[:-1], visible.shape[:-1])
    seen, visible = seen.expand(*shape, -1), visible.expand(*shape, -1)
    rows = (x[:, :, None].expand(*key.shape[:3], *x.shape[2:]) for x in (beside.key, beside.value))
    key, value = (torch.cat([row, slot], 3) for row, slot in zip(rows, (key, value), strict=True))
    return key, value, torch.cat([seen, visible], -1)


def _fused(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
    """Attend in every block: blocks take the place of heads, so that overlaps need no copy."""
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))
    if visible is None:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        if visible.shape[:2] != (1, 1):
            visible = visible.expand(*query.shape[:2], *visible.shape[2:])
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible.flatten(0, 1))
    return y.unflatten(0, query.shape[:2])


def _added(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    added: Tensor,
    logits: Tensor | None = None,
    values: Tensor | None = None,
) -> Tensor:
    """Attend in every block, with numbers added to the logits and further ones before them."""
    near = query @ key.mT * query.shape[-1] ** -0.5 + added
    if logits is None or values is None:
        return near.softmax(-1) @ value
    weight = torch.cat([logits, near], -1).softmax(-1)
    rows = logits.shape[-1]
    return weight[..., rows:] @ value + weight[..., :rows] @ values
