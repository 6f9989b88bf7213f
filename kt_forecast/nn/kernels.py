"""Which kernels run what plain operations define: an installed package's, else our own, else none.

On a GPU a recurrence in plain operations is many launches, each over numbers that need never leave
the processor. ``decayed`` and ``selective_scan`` ask here for something faster. The packages are
the extras ``kernels`` and ``kernels-cuda``; our own kernels need nothing but the Triton that comes
with torch. On a CPU, in double precision, in an exported program, and for settings that no kernel
covers, plain operations run; all give the same numbers to rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["package", "own"]
Recurrence = Callable[..., tuple[Tensor, Tensor]]
"""Takes the tensors of ``decayed`` or ``selective_scan`` in their order."""

MOST_KEYS = 128
"""Our kernels hold a head's matrix of as many keys at most."""
MOST_STATES = 128
"""Our kernels hold as many numbers of a channel at most."""

_allowed: ContextVar[tuple[Kind, ...]] = ContextVar("allowed", default=("package", "own"))


@contextmanager
def only(*kinds: Kind) -> Iterator[None]:
    """Let only these kernels run inside; none for plain operations."""
    before = _allowed.set(kinds)
    try:
        yield
    finally:
        _allowed.reset(before)


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Let torch's attention run by any kernel but cuDNN's, which it prefers on some GPUs.

    Gradients of that one may be NaN under a mask where all that it is given and returns is finite
    (https://github.com/pytorch/pytorch/issues/196678).
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def for_decayed(key: Tensor, value: Tensor) -> Recurrence | None:
    """Return what runs `kt_forecast.nn.decayed.decayed` faster for such tensors, if anything does.

    Products of fla's kernels are rounded to fewer digits than single precision has, so they run
    only where such rounding is allowed: in half precision, under autocast, or where torch's own
    products may round so.
    """
    if not _suits(value):
        return None
    rough = _rough(value)
    even = key.shape[3] % 2 == 0 and value.shape[3] % 2 == 0
    suits = rough and even and "package" in _allowed.get()
    found = _found("fla.ops.simple_gla") if suits else None
    if found is not None and _sound():
        return partial(_untraced(_by_fla), found.chunk_simple_gla)
    if "own" in _allowed.get() and find_spec("triton") and key.shape[3] <= MOST_KEYS:
        from kt_forecast.nn.fused_decayed import decayed

        return partial(decayed, rough=rough)
    return None


def for_scan(u: Tensor, states: int) -> Recurrence | None:
    """Return what runs `kt_forecast.nn.scan.selective_scan` faster, if anything does."""
    if not _suits(u):
        return None
    interface = "mamba_ssm.ops.selective_scan_interface"
    if "package" in _allowed.get() and (found := _found(interface)):
        return partial(_untraced(_by_mamba_ssm), found.selective_scan_fn)
    if "own" in _allowed.get() and find_spec("triton") and states <= MOST_STATES:
        from kt_forecast.nn.fused_scan import selective_scan

        return selective_scan
    return None


def _suits(x: Tensor) -> bool:
    return x.is_cuda and x.dtype != torch.float64 and not torch.compiler.is_exporting()


def _rough(x: Tensor) -> bool:
    """Return whether products of matrices may be rounded to fewer digits than float32 has."""
    half = x.element_size() < 4 or torch.is_autocast_enabled(x.device.type)
    return half or torch.backends.cuda.matmul.fp32_precision == "tf32"


@cache
def _found(name: str) -> ModuleType | None:
    """Return a module of a package that is an extra; None where it or its parts are missing."""
    try:
        return import_module(name)
    except ImportError:
        return None


def _steady(log_decay: Tensor) -> bool:
    """Return whether a head's decay is one number, which nothing learns."""
    return log_decay.shape[0] == 1 and log_decay.stride(2) == 0 and not log_decay.requires_grad


@cache
def _sound() -> bool:
    """Return whether fla's gradients can be formed here.

    On Hopper and some compilers fla refuses those of learned decays, and those of fixed ones were
    seen to end in illegal memory accesses.
    """
    utils = import_module("fla.utils")
    bad = utils.TRITON_ABOVE_3_4_0 and not utils.TRITON_ABOVE_3_7_1
    return not (utils.IS_NVIDIA_HOPPER and bad)


@cache
def _untraced(run: Recurrence) -> Recurrence:
    """Keep the compiler out; decorating would load it wherever this module is loaded."""
    return torch.compiler.disable(run)


def _by_fla(
    run: Callable[..., tuple[Tensor, Tensor]],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Do `decayed` by fla's gated linear attention with one gate a head, steps before heads."""
    batch, heads, steps, _ = value.shape
    q, k = (x.expand(batch, heads, steps, -1).to(value.dtype) for x in (query, key))
    if _steady(log_decay):
        decay = {"g_gamma": log_decay[0, :, 0].expand(heads).float().contiguous()}
    else:
        decay = {"g": log_decay.expand(batch, heads, steps).transpose(1, 2).float()}
    y, last = run(
        *(x.transpose(1, 2) for x in (q, k, value)),
        **decay,
        scale=1.0,
        initial_state=state.float(),
        output_final_state=True,
    )
    return y.transpose(1, 2).float(), last


def _by_mamba_ssm(
    run: Callable[..., Tensor],
    u: Tensor,
    step: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    start: Tensor,
) -> tuple[Tensor, Tensor]:
    """Do `selective_scan` by mamba-ssm's, which begins at zero and gives no gradient at its end.

    So steps before the first write the state's numbers one by one, and steps after the last, which
    last no time, read them one by one. The former last so shortly that nothing decays; a power of
    two, so that dividing by it loses nothing.
    """
    states, steps = rate.shape[1], u.shape[1]
    short = 2.0**-64
    each = torch.eye(states, device=u.device).expand(len(u), -1, -1)
    nothing = torch.zeros_like(each)
    given = start.float().transpose(1, 2)
    none = torch.zeros_like(given)
    joined = (
        (given, u, none),
        (torch.full_like(given, short), step, none),
        (each / short, write, nothing),
        (nothing, read, each),
    )
    u, step, write, read = (
        torch.cat([x.float() for x in parts], 1).transpose(1, 2).contiguous() for parts in joined
    )
    y = run(u, step, rate.float().contiguous(), write, read).transpose(1, 2)
    return y[:, states : states + steps], y[:, states + steps :].transpose(1, 2)
