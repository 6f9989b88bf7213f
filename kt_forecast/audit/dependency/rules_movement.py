"""Operations that move elements and leave their values alone."""

import torch
from torch import Tensor

from kt_forecast.audit.dependency.calls import Call, Result, rule
from kt_forecast.audit.dependency.labels import NO, NONE, Shadow, every, greatest

DROPPED = {"dtype", "device", "memory_format", "layout", "pin_memory", "non_blocking", "copy"}
"""Keyword arguments that say nothing about places."""


def moved(call: Call, x: Tensor | None = None) -> Shadow | list[Shadow]:
    """Return the shadows of the outputs by moving the labels in the same way."""
    shadow = call.shadow(call.args[0] if x is None else x)
    kwargs = {k: v for k, v in call.kwargs.items() if k not in DROPPED}
    latest = call.func(shadow.latest, *call.args[1:], **kwargs)
    known = call.func(shadow.known, *call.args[1:], **kwargs)
    if isinstance(latest, Tensor):
        return Shadow(latest, known)
    return [Shadow(a, b) for a, b in zip(latest, known, strict=True)]


def moved_as_floats(call: Call) -> Shadow:
    """Return the shadow of the output where the operation moves floating point numbers only."""
    shadow = call.shadow(call.args[0])
    latest = call.func(shadow.latest.double().contiguous() - NONE, *call.args[1:], **call.kwargs)
    known = call.func(shadow.known.double().contiguous(), *call.args[1:], **call.kwargs)
    return Shadow((latest + NONE).to(shadow.latest.dtype), known > 0.5)


def view(call: Call) -> Result:
    """Follow an operation that returns views: the same view of the labels."""
    x = call.args[0] if call.args else None
    if not isinstance(x, Tensor):
        return None
    shadow = call.shadow(x)
    outs = call.outs
    if len(outs) == 1 and outs[0].shape == x.shape and outs[0].stride() == x.stride():
        return shadow
    return moved(call)


@rule("view", "_unsafe_view", "_reshape_alias", "reshape", "view_copy", "_reshape_copy")
def _reshaped(call: Call) -> Result:
    shadow, shape = call.shadow(call.args[0]), call.out.shape
    if call.out.numel() != call.args[0].numel():
        return None
    return Shadow(shadow.latest.reshape(shape), shadow.known.reshape(shape))


@rule("view_as_real", "view_as_real_copy")
def _as_real(call: Call) -> Result:
    shadow = call.shadow(call.args[0])
    return Shadow(shadow.latest[..., None], shadow.known[..., None])


@rule("view_as_complex", "view_as_complex_copy")
def _as_complex(call: Call) -> Result:
    shadow = call.shadow(call.args[0])
    return Shadow(greatest(shadow.latest, [-1], keep=False), every(shadow.known, [-1], keep=False))


@rule(
    "clone",
    "_to_copy",
    "contiguous",
    "lift",
    "lift_fresh_copy",
    "alias_copy",
    "detach_copy",
    "_conj",
    "_conj_physical",
    "conj_physical",
    "_neg_view",
    "resolve_conj",
    "resolve_neg",
    "_fw_primal",
    "_copy_from",
)
def _same(call: Call) -> Result:
    return call.shadow(call.args[0])


@rule("copy", "copy_")
def _copied(call: Call) -> Result:
    return call.shadow(call.args[1])


@rule(
    "flip",
    "roll",
    "repeat",
    "rot90",
    "unfold_copy",
    "expand_copy",
    "permute_copy",
    "transpose_copy",
    "t_copy",
    "slice_copy",
    "select_copy",
    "squeeze_copy",
    "unsqueeze_copy",
    "diagonal_copy",
    "unbind_copy",
    "split_copy",
    "split_with_sizes_copy",
    "diag_embed",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "native_channel_shuffle",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unsafe_chunk",
    "_pack_padded_sequence",
)
def _moved(call: Call) -> Result:
    if any(isinstance(x, Tensor) for x in call.args[1:]):
        return _packed(call) if len(call.outs) == 2 else None
    return moved(call)


def _packed(call: Call) -> Result:
    """Follow the packing of sequences: lengths decide what is where, and the shape."""
    lengths = call.shadow(call.args[1])
    rank = int(greatest(lengths.latest, keep=False)) if lengths.latest.numel() else NONE
    call.run.escape(rank, "the shape of packed sequences")
    shadow = call.shadow(call.args[0])
    data = call.func(shadow.latest.contiguous(), *call.args[1:])[0]
    return [
        Shadow(torch.clamp(data, min=rank), NO),
        Shadow(torch.tensor(rank, dtype=data.dtype), torch.tensor(rank == NONE)),
    ]


@rule("_pad_packed_sequence")
def _padded(call: Call) -> Result:
    data, sizes, first = call.args[:3]
    shadow, rank = call.shadow(data), int(greatest(call.shadow(sizes).latest, keep=False))
    total = call.args[4] if len(call.args) > 4 else -1
    latest = call.func(shadow.latest.contiguous(), sizes, first, NONE, total)[0]
    found = Shadow(torch.clamp(latest, min=rank), NO)
    return [found, Shadow(torch.tensor(rank), torch.tensor(rank == NONE))]


@rule("cat", "concat", "stack", "hstack", "vstack", "dstack", "block_diag")
def _joined(call: Call) -> Result:
    parts = [call.shadow(x) for x in call.args[0]]
    rest = call.args[1:]
    return Shadow(
        call.func([s.latest for s in parts], *rest, **call.kwargs),
        call.func([s.known for s in parts], *rest, **call.kwargs),
    )


@rule("tril", "triu")
def _triangle(call: Call) -> Result:
    x = call.args[0]
    shadow = call.shadow(x)
    kept = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device)
    kept = getattr(kept, call.func.overloadpacket.__name__.rstrip("_"))(call["diagonal"])
    return Shadow(shadow.latest.masked_fill(~kept, NONE), shadow.known | ~kept)


@rule("constant_pad_nd")
def _padded_with_constant(call: Call) -> Result:
    shadow, pad = call.shadow(call.args[0]), call.args[1]
    known = call.func(shadow.known.to(torch.int8), pad, 1).bool()
    return Shadow(call.func(shadow.latest, pad, NONE), known)


@rule(
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "_pad_circular",
    "im2col",
)
def _padded_with_itself(call: Call) -> Result:
    return moved_as_floats(call)
