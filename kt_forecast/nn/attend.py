"""Exact causal attention by the fastest way there is on a device: one result, several kernels.

On the CPU sequences are attended in blocks (`kt_forecast.nn.windowed`) or by torch's fused kernel,
for FlexAttention has no backward pass there. On a GPU FlexAttention skips the blocks of a mask that
nothing reads, and packed sequences in half precision go to the kernel for varying lengths. What a
step reads never depends on which way was taken.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.utils.checkpoint import checkpoint

from kt_forecast.nn.windowed import (
    Beside,
    Slots,
    Steps,
    in_phase,
    in_phases,
    phases,
    weighed,
    windowed,
)

Kernel = Literal["auto", "exact", "blocks", "flex", "varying"]
"""``exact``: the mask of all pairs is written; ``varying``: for packed sequences."""

TILE = 128
"""Steps of a block of FlexAttention's masks."""
EXACT_UP_TO = 512
"""Steps of a sequence up to which one mask of all pairs is read on a GPU.

On an H200 it was faster there than all other kernels, for windows and for documents; for windows
FlexAttention took as long at twice as many steps.
"""
TILED_FROM = 512
"""Steps of a sequence from which on FlexAttention reads what has learned biases or further rows.

At half as many it was already several times as fast as blocks on an H200, but it is compiled for
each shape of mask, and short sequences come in many lengths.
"""
PAIRS_LEARNED = 2**23
"""Pairs in tiles up to which FlexAttention learns numbers by distance.

Each pair adds to the slope of one of few numbers, which on an H200 took most of the time of long
sequences: by arithmetic windows that are written out are faster then.
"""
PAIRS_WRITTEN = 2**27
"""Pairs of windows that are written out at most where FlexAttention could do without."""
QUERY_CHUNK = 512
"""Queries attended at a time where a mask must be written out."""
LEAST_SIZE = 16
"""Numbers of a head from which on FlexAttention takes it."""
SHAPES = 256
"""Shapes and masks for which kernels may be compiled in one process."""


def attend(
    query: Steps,
    key: Slots,
    value: Slots,
    window: int | None = None,
    *,
    dilation: int = 1,
    before: Int[Tensor, " batch"] | None = None,
    document: Int[Tensor, "batch time"] | None = None,
    kernel: Kernel = "auto",
) -> Steps:
    """Return what each step reads of the steps up to itself.

    Args:
        query: of the segment's steps.
        key: of the steps kept before the segment and of its own; see `windowed`.
        value: as ``key``.
        window: how many steps are read, the own one included; None for all, which asks that none
            were kept (for those see `attend_cached`).
        dilation: distance between two steps that are read.
        before: steps that each row has seen, where some were kept.
        document: numbers that never fall along a row: a step reads its own document only. None
            may have been kept.
        kernel: ``auto`` for the fastest that fits.
    """
    steps = query.shape[2]
    if dilation > 1:
        before = in_phases(before, dilation)
        q, k, v = (phases(x, dilation) for x in (query, key, value))
        if document is not None:
            # What completes a phase is a document of its own, the last.
            document = (document - document.max() - 1)[:, None, :, None]
            document = phases(document, dilation)[:, 0, :, 0]
        y = attend(q, k, v, window, before=before, document=document, kernel=kernel)
        return in_phase(y, dilation, steps)
    one_pass = key.shape[2] == steps
    if one_pass and document is None and (window is None or window >= steps):
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    if kernel == "auto":
        kernel = fastest(query, document) if one_pass else "blocks"
    return KERNELS[kernel](query, key, value, window, before, document)


def attend_weighed(
    query: Steps,
    key: Slots,
    value: Slots,
    bias: Float[Tensor, "head window"],
    *,
    before: Int[Tensor, " batch"] | None = None,
    kernel: Kernel = "auto",
) -> Steps:
    """Do as `attend` within a window, with learned numbers added by distance; see `weighed`."""
    window, steps = bias.shape[1], query.shape[2]
    if kernel == "auto":
        flex = key.shape[2] == steps and learns_in_tiles(query, window)
        kernel = "flex" if flex else "blocks"
    if kernel != "flex":
        return weighed(query, key, value, window, before=before, bias=bias)
    # Windows that are learned change all the time, and a kernel is compiled for each.
    added = F.pad(bias.float(), (0, -window % TILE), value=float("-inf"))
    most = added.shape[1] - 1
    mask = _band(steps, added.shape[1], query.device)
    # A distance outside the window is hidden by the mask; it only may not be looked up.
    score = lambda s, b, h, q, k: s + added[h, (q - k).clamp(0, most)]  # noqa: ARG005, E731
    return _flex(query, key, value, mask, score)


def attend_beside(
    query: Steps,
    key: Slots,
    value: Slots,
    window: int,
    rows: tuple[Float[Tensor, "some head row size"], Float[Tensor, "some head row size"]],
    *,
    before: Int[Tensor, " batch"] | None = None,
    kernel: Kernel = "auto",
) -> Steps:
    """Do as `attend` within a window, in one softmax with rows that every step reads.

    Args:
        query: as for `attend`.
        key: as for `attend`.
        value: as for `attend`.
        window: as for `attend`.
        rows: their keys and values.
        before: as for `attend`.
        kernel: ``auto`` for the fastest that fits.
    """
    steps = query.shape[2]
    if kernel == "auto":
        flex = key.shape[2] == steps and tiled(query)
        kernel = "flex" if flex else "blocks"
    if kernel != "flex":
        return windowed(query, key, value, window, before=before, beside=Beside(*rows))
    count = rows[0].shape[2]
    mask = _band(steps, window, query.device, count)
    key, value = (
        torch.cat([F.pad(row, (0, 0, 0, -count % TILE)).expand(len(x), -1, -1, -1), x], 2)
        for row, x in zip(rows, (key, value), strict=True)
    )
    return _flex(query, key, value, mask)


def attend_cached(
    query: Steps,
    key: Float[Tensor, "batch head slot size"],
    value: Float[Tensor, "batch head slot size"],
    place: Int[Tensor, "#batch time"],
) -> Steps:
    """Return what each step reads of a cache whose slot i holds step i.

    Args:
        query: of steps.
        key: of all steps that there were, the queries' own included.
        value: as ``key``.
        place: where each query stands in its sequence.
    """
    chunks = []
    for q, at in zip(query.split(QUERY_CHUNK, 2), place.split(QUERY_CHUNK, 1), strict=True):
        chunks.append(_again(query.shape[2], _cached, q, key, value, at))
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, 2)


def fastest(query: Steps, document: Int[Tensor, "batch time"] | None) -> Kernel:
    """Return the kernel that ``auto`` takes for one pass over sequences."""
    steps, size = query.shape[2:]
    if not query.is_cuda or query.dtype == torch.float64 or torch.compiler.is_exporting():
        return "blocks"
    if steps <= EXACT_UP_TO:
        return "exact"
    if document is not None and query.element_size() == 2 and size % 8 == 0:
        return "varying"
    return "flex" if size >= LEAST_SIZE else "blocks"


def tiled(query: Steps) -> bool:
    """Return whether FlexAttention runs one pass over long sequences of such queries."""
    steps, size = query.shape[2:]
    able = query.is_cuda and query.dtype != torch.float64 and size >= LEAST_SIZE
    return able and steps >= TILED_FROM and not torch.compiler.is_exporting()


def learns_in_tiles(query: Steps, window: int) -> bool:
    """Return whether FlexAttention is to learn numbers by distance within a window."""
    each = query.shape[:3].numel()
    few = each * (window + TILE) <= PAIRS_LEARNED
    return tiled(query) and (few or each * 2 * window > PAIRS_WRITTEN)


def _exact(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    before: Tensor | None,  # noqa: ARG001
    document: Tensor | None,
) -> Tensor:
    """Write the mask of all pairs of steps: for short sequences."""
    step = torch.arange(query.shape[2], device=query.device)
    ago = step[:, None] - step
    visible = (ago >= 0) & (ago < (window or len(step)))
    if document is not None:
        visible = visible & (document[:, None, :, None] == document[:, None, None])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible)


def _blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    before: Tensor | None,
    document: Tensor | None,
) -> Tensor:
    """Cut a window into blocks, and documents of any length into chunks of queries."""
    if window is None:
        assert document is not None  # noqa: S101 - else nothing hides a step, see `attend`
        return _by_chunks(query, key, value, document)
    group = None if document is None else document[:, None]
    return windowed(query, key, value, window, before=before, group=group)


def _tiles(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    before: Tensor | None,  # noqa: ARG001
    document: Tensor | None,
) -> Tensor:
    """Let FlexAttention skip the tiles of the mask that nothing reads."""
    if document is not None:
        return _flex(query, key, value, _of_documents(document, window))
    return _flex(query, key, value, _band(query.shape[2], window or query.shape[2], query.device))


def _flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: BlockMask,
    score: Callable[..., Tensor] | None = None,
) -> Tensor:
    # What cannot be compiled would form all pairs; ``fullgraph`` makes that an error.
    with torch._dynamo.config.patch(recompile_limit=SHAPES):  # noqa: SLF001
        y: Tensor = _compiled()(query, key, value, score_mod=score, block_mask=mask)
    return y


@lru_cache(1)
def _compiled() -> Any:  # noqa: ANN401
    return torch.compile(flex_attention, fullgraph=True)


@lru_cache(SHAPES)
@torch.inference_mode(mode=False)  # what validation asks for first is kept for training
def _band(steps: int, window: int, device: torch.device, rows: int = 0) -> BlockMask:
    """Return which tiles of keys the tiles of queries read, without a look at pairs of steps.

    Args:
        steps: of a sequence.
        window: steps that each reads.
        device: of the mask.
        rows: keys before those of the steps, in tiles of their own, which all steps read.
    """
    tile = torch.arange(-(-steps // TILE), device=device)
    apart = tile[:, None] - tile
    some = (apart >= 0) & (apart * TILE - (TILE - 1) < window)
    full = (apart > 0) & (apart * TILE + (TILE - 1) < window)
    if not rows:
        within = lambda b, h, q, k: (k <= q) & (q - k < window)  # noqa: ARG005, E731
        return _mask(some[None, None], full[None, None], (steps, steps), within)
    ahead = -(-rows // TILE)
    whole = (torch.arange(ahead, device=device) < rows // TILE).expand(len(tile), -1)
    some = torch.cat([torch.ones_like(whole), some], 1)
    full = torch.cat([whole, full], 1)
    start = ahead * TILE
    beside = lambda b, h, q, k: (  # noqa: ARG005, E731
        (k < rows) | ((k >= start) & (k - start <= q) & (q + start - k < window))
    )
    return _mask(some[None, None], full[None, None], (steps, start + steps), beside)


def _of_documents(document: Tensor, window: int | None) -> BlockMask:
    """Return the tiles that hold two steps of one document, the later one asking."""
    steps = document.shape[1]
    tiles = F.pad(document[:, None], (0, -steps % TILE), mode="replicate").unflatten(2, (-1, TILE))
    first, last = tiles[:, 0, :, 0], tiles[:, 0, :, -1]
    near = _band(steps, window or steps, document.device).to_dense() > 0
    tile = torch.arange(first.shape[1], device=document.device)
    full = (first[:, None, :] == last[:, :, None]) & (tile[:, None] > tile)
    if window is not None:
        full &= (tile[:, None] - tile) * TILE + (TILE - 1) < window
    some = (last[:, None, :] >= first[:, :, None]) & near[0]
    reach = window or steps
    own = lambda b, h, q, k: (  # noqa: ARG005, E731
        (document[b, q] == document[b, k]) & (k <= q) & (q - k < reach)
    )
    return _mask(some[:, None], full[:, None], (steps, steps), own)


def _mask(
    some: Tensor, full: Tensor, lengths: tuple[int, int], pairs: Callable[..., Tensor]
) -> BlockMask:
    """Return a mask from the tiles with a pair and those of nothing but pairs."""
    full = full & (torch.arange(some.shape[2], device=some.device) < lengths[0] // TILE)[:, None]
    return BlockMask.from_kv_blocks(
        *_ordered(some & ~full),
        *_ordered(some & full),
        BLOCK_SIZE=TILE,
        mask_mod=pairs,
        seq_lengths=lengths,
    )


def _ordered(tiles: Bool[Tensor, "some 1 query key"]) -> tuple[Tensor, Tensor]:
    """Return how many tiles each row reads, and their numbers before those of the rest."""
    order = tiles.int().argsort(dim=-1, descending=True, stable=True)
    return tiles.sum(-1).int(), order.int()


def _varying(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    before: Tensor | None,  # noqa: ARG001
    document: Tensor | None,
) -> Tensor:
    """Lay all documents of all rows behind each other, for the kernel of varying lengths."""
    from torch.nn.attention.varlen import varlen_attn  # brings the whole compiler with it

    batch, _, steps, _ = query.shape
    begins = (torch.arange(steps, device=query.device) == 0).expand(batch, -1)
    if document is not None:
        begins = F.pad(document[:, 1:] != document[:, :-1], (1, 0), value=True)
    edge = F.pad(begins.flatten().nonzero()[:, 0].int(), (0, 1), value=batch * steps)
    longest = int(edge.diff().max())
    reach = (-1 if window is None else window - 1, 0)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    y = varlen_attn(q, k, v, edge, edge, longest, longest, window_size=reach)
    assert isinstance(y, Tensor)  # noqa: S101 - nothing else was asked for
    return y.unflatten(0, (batch, steps)).transpose(1, 2)


def _by_chunks(query: Tensor, key: Tensor, value: Tensor, document: Tensor) -> Tensor:
    """Attend within documents of any length, a chunk of queries at a time."""
    step = torch.arange(query.shape[2], device=query.device)
    begins = F.pad(document[:, 1:] != document[:, :-1], (1, 0), value=True)
    begin = torch.where(begins, step, 0).cummax(1).values
    chunks = []
    for low in range(0, query.shape[2], QUERY_CHUNK):
        high = min(low + QUERY_CHUNK, query.shape[2])
        first = int(begin[:, low].min())
        args = (query[:, :, low:high], key[:, :, first:high], value[:, :, first:high])
        place = (step[low:high] - first, begin[:, low:high] - first)
        chunks.append(_again(query.shape[2], _since, *args, *place))
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, 2)


def _again(steps: int, run: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """Run, and once more for the backward pass if there are several chunks: masks are not kept."""
    if steps > QUERY_CHUNK and torch.is_grad_enabled():
        y: Tensor = checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)
        return y
    return run(*args)


def _cached(query: Tensor, key: Tensor, value: Tensor, place: Tensor) -> Tensor:
    visible = torch.arange(key.shape[2], device=key.device) <= place[:, None, :, None]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible)


def _since(query: Tensor, key: Tensor, value: Tensor, place: Tensor, begin: Tensor) -> Tensor:
    slot = torch.arange(key.shape[2], device=key.device)
    visible = (slot <= place[:, None]) & (slot >= begin[:, None, :, None])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible)


KERNELS: dict[Kernel, Callable[..., Tensor]] = {
    "exact": _exact,
    "blocks": _blocks,
    "flex": _tiles,
    "varying": _varying,
}
