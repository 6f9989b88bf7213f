"""Windows that slide: convolutions and pooling, over any number of axes."""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_forecast.audit.dependency.calls import Call, Result, rule
from kt_forecast.audit.dependency.labels import NONE, Shadow, every, greatest, thin, unknown


def _each(value: int | Sequence[int], count: int) -> list[int]:
    given = [value] if isinstance(value, int) else list(value)
    return given * count if len(given) == 1 else given


def _taps(kernel: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return product(*(range(n) for n in kernel))


def _padded(latest: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    pads = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    return F.pad(latest, pads, value=NONE) if any(pads) else latest


def _slices(
    tap: Sequence[int], stride: Sequence[int], dilation: Sequence[int], sizes: Sequence[int]
) -> tuple[slice, ...]:
    """Return what one tap of the kernel reads for every place of the output."""
    return tuple(
        slice(k * d, k * d + (n - 1) * s + 1, s)
        for k, s, d, n in zip(tap, stride, dilation, sizes, strict=True)
    )


def _at(x: Tensor, where: tuple[slice, ...] | tuple[int, ...]) -> Tensor:
    """Return part of a tensor, its last axes indexed."""
    return x[(*[slice(None)] * (x.ndim - len(where)), *where)]


@rule("convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution")
def _convolved(call: Call) -> Result:
    x, weight, bias = call.args[:3]
    batched = x.ndim == weight.ndim
    if not batched:
        return None
    of_x, of_w = call.shadow(x), call.shadow(weight)
    axes = x.ndim - 2
    transposed = bool(call["transposed"]) if call.has("transposed") else False
    slide = _transposed if transposed else _slid
    latest = slide(call, of_x.latest, _dead(weight, of_w), weight.shape, axes)
    shape = [1, -1, *([1] * axes)]
    if transposed:
        weights = greatest(of_w.latest).reshape([1] * x.ndim)
    else:
        weights = greatest(of_w.latest, range(1, weight.ndim), keep=False).reshape(shape)
    latest = torch.maximum(latest, weights)
    if bias is not None:
        latest = torch.maximum(latest, call.shadow(bias).latest.reshape(shape))
    known = every(of_x.known, keep=False) & every(of_w.known, keep=False)
    known = known if bias is None else torch.zeros_like(known)
    return Shadow(latest, known)


def _dead(weight: Tensor, shadow: Shadow) -> Tensor | None:
    """Return which weights are known zeros; None where none is."""
    if not bool(thin(shadow.known).any()):
        return None
    dead = shadow.known & (weight == 0)
    return dead if bool(dead.any()) else None


def _channels(latest: Tensor, dead: Tensor | None, out: int) -> Tensor:
    """Return labels by output channel, from labels batch by group by channel by place.

    Args:
        latest: labels of the inputs that one tap reads.
        dead: which weights of this tap are known zeros, group by output by input.
        out: output channels of a group.
    """
    if dead is None or not bool(dead.any()):
        return latest.amax(2, keepdim=True).expand(-1, -1, out, *latest.shape[3:])
    if bool(dead.all()):
        return torch.full_like(latest[:, :, :1], NONE).expand(-1, -1, out, *latest.shape[3:])
    mask = dead[None].reshape(1, *dead.shape, *([1] * (latest.ndim - 3)))
    return torch.where(mask, NONE, latest[:, :, None]).amax(3)


def _slid(call: Call, latest: Tensor, dead: Tensor | None, shape: torch.Size, axes: int) -> Tensor:
    groups, sizes = call["groups"], call.out.shape[2:]
    stride, pad = _each(call["stride"], axes), _each(call["padding"], axes)
    dilation = _each(call["dilation"], axes)
    outs = shape[0] // groups
    latest = latest.reshape(len(latest), groups, -1, *latest.shape[2:])
    if dead is None:
        latest = latest.amax(2, keepdim=True)
    latest = _padded(latest, pad, pad)
    found: Tensor | None = None
    for tap in _taps(shape[2:]):
        part = _at(latest, _slices(tap, stride, dilation, sizes))
        here = None if dead is None else _at(dead, tap).reshape(groups, outs, -1)
        part = _channels(part, here, outs)
        found = part if found is None else torch.maximum(found, part)
    if found is None:
        return torch.tensor(NONE)
    return found.reshape(len(found), -1, *sizes)


def _transposed(
    call: Call, latest: Tensor, dead: Tensor | None, shape: torch.Size, axes: int
) -> Tensor:
    groups, out = call["groups"], call.out
    stride, pad = _each(call["stride"], axes), _each(call["padding"], axes)
    dilation = _each(call["dilation"], axes)
    sizes = latest.shape[2:]
    latest = latest.reshape(len(latest), groups, -1, *sizes)
    outs = shape[1]
    whole = [
        max(n + 2 * p, (m - 1) * s + d * (k - 1) + 1)
        for n, p, m, s, d, k in zip(
            out.shape[2:], pad, sizes, stride, dilation, shape[2:], strict=True
        )
    ]
    found = torch.full((len(latest), groups, outs, *whole), NONE, dtype=latest.dtype)
    found = found.to(latest.device)
    for tap in _taps(shape[2:]):
        here = None
        if dead is not None:
            here = _at(dead, tap).reshape(groups, -1, outs).mT
        part = _at(found, _slices(tap, stride, dilation, sizes))
        part.copy_(torch.maximum(part, _channels(latest, here, outs)))
    inside = tuple(slice(p, p + n) for p, n in zip(pad, out.shape[2:], strict=True))
    return _at(found, inside).reshape(out.shape)


def _pooled(call: Call, axes: int, *, dilation: Sequence[int], kernel: Sequence[int]) -> Shadow:
    x, out = call.args[0], call.outs[0]
    shadow = call.shadow(x)
    stride = _each(call["stride"] or kernel, axes)
    pad, sizes = _each(call["padding"], axes), out.shape[x.ndim - axes :]
    after = [
        max(p, (n - 1) * s + (k - 1) * d + 1 - m - p)
        for p, n, s, k, d, m in zip(
            pad, sizes, stride, kernel, dilation, x.shape[x.ndim - axes :], strict=True
        )
    ]
    latest = _padded(shadow.latest, pad, after)
    found: Tensor | None = None
    for tap in _taps(kernel):
        part = _at(latest, _slices(tap, stride, dilation, sizes))
        found = part if found is None else torch.maximum(found, part)
    return unknown(found if found is not None else shadow.latest)


@rule("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices")
@rule("max_pool1d", "max_pool2d", "max_pool3d", "quantized_max_pool1d")
def _max_pooled(call: Call) -> Result:
    axes = int(call.name.__name__.split("pool")[1][0])
    kernel = _each(call["kernel_size"], axes)
    return _pooled(call, axes, dilation=_each(call["dilation"], axes), kernel=kernel)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _mean_pooled(call: Call) -> Result:
    axes = int(call.name.__name__.split("pool")[1][0])
    return _pooled(call, axes, dilation=[1] * axes, kernel=_each(call["kernel_size"], axes))


@rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d")
@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
@rule("adaptive_avg_pool2d", "adaptive_avg_pool3d")
def _adaptively_pooled(call: Call) -> Result:
    x, out = call.args[0], call.outs[0]
    axes = int(call.name.__name__.split("pool")[1][0])
    latest = call.shadow(x).latest
    for axis in range(x.ndim - axes, x.ndim):
        latest = _bins(latest, axis, out.shape[axis])
    return unknown(latest)


def _bins(latest: Tensor, axis: int, bins: int) -> Tensor:
    width = latest.shape[axis]
    edges = [(i * width // bins, -((-(i + 1) * width) // bins)) for i in range(bins)]
    parts = [greatest(latest.narrow(axis, a, b - a), [axis]) for a, b in edges]
    return torch.cat(parts, axis)
