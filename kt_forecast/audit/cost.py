"""Counts what a mixer costs as sequences grow: operations and bytes, never seconds.

Floating-point operations are counted from the shapes of every matrix product and attention call;
bytes are those of the distinct tensors kept for the backward pass. Launches are the operations that
compute, each of which a GPU is sent by itself, and what they move are the bytes that they read and
write. All are the same in every run, so that a promised growth can be tested; launches and what is
moved may differ from one kind of device to another where other kernels are taken.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

FREE = {
    "_unsafe_view",
    "_reshape_alias",
    "empty",
    "empty_like",
    "empty_strided",
    "is_same_size",
    "new_empty",
    "new_empty_strided",
    "squeeze_",
    "t_",
    "transpose_",
    "unsqueeze_",
}
"""Operations that compute nothing, beside those that torch knows to return views."""
PICKING = {"embedding", "gather", "index", "index_select", "take"}
"""Operations that read of their first argument as much as they return."""
PUTTING = {"index_add_", "index_copy_", "index_put_", "scatter_", "scatter_add_", "slice_scatter"}
"""Operations that touch as much of their first argument as what they put there."""
FILLING = {"copy_", "fill_", "zero_"}
"""Operations that only write to their first argument."""


@dataclass(frozen=True)
class Growth:
    """Exponents of growth with the sequence length, measured between two lengths.

    Attributes:
        training_flops: of one forward and backward pass.
        training_bytes: kept for the backward pass.
        step_flops: of one streamed step, in the number of steps before it; None without streaming.
        state_bytes: of the streaming state; None without streaming.
        launches: of one forward and backward pass.
        moved: bytes, by these launches.
    """

    training_flops: float
    training_bytes: float
    step_flops: float | None
    state_bytes: float | None
    launches: float
    moved: float


@dataclass
class Traffic:
    """What a device is sent to do.

    Attributes:
        launches: operations that compute.
        moved: bytes that they read and write.
        by: both, of each kind of operation.
    """

    launches: int = 0
    moved: int = 0
    by: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, name: str, moved: int) -> None:
        """Count one launch."""
        launches, before = self.by.get(name, (0, 0))
        self.by[name] = (launches + 1, before + moved)
        self.launches += 1
        self.moved += moved


def growth(
    mixer: nn.Module | Callable[[int], nn.Module],
    width: int,
    *,
    streaming: bool,
    lengths: tuple[int, int] = (2048, 4096),
    values: bool = True,
) -> Growth:
    """Measure how a mixer's cost grows from the first length to the second.

    Args:
        mixer: see `kt_forecast.nn.system.Mixer`; or what makes one for a length.
        width: numbers in a step's vector.
        streaming: whether to measure a streamed step and the state too.
        lengths: two sequence lengths; the longer, the nearer to the limit.
        values: whether a training pass is given numbers. Without them one of any length costs
            nothing to count, but whoever looks at a number fails.

    Returns:
        The exponents: 0 for constant, 1 for linear, 2 for quadratic.
    """
    flops, saved, step, state = [], [], [], []
    launches, moved = [], []
    for length in lengths:
        x = torch.randn(1, length, width, generator=torch.Generator().manual_seed(0))
        sized = mixer if isinstance(mixer, nn.Module) else mixer(length)
        without = nullcontext() if values else FakeTensorMode(allow_non_fake_inputs=True)
        with without, _Watch() as watch:
            counted, kept = training_cost(sized, x)
        flops.append(counted)
        saved.append(kept)
        launches.append(watch.traffic.launches)
        moved.append(watch.traffic.moved)
        if streaming:
            counted, kept = step_cost(sized, x)
            step.append(counted)
            state.append(kept)

    def exponent(pair: list[int]) -> float:
        return math.log(max(pair[1], 1) / max(pair[0], 1)) / math.log(lengths[1] / lengths[0])

    return Growth(
        training_flops=exponent(flops),
        training_bytes=exponent(saved),
        step_flops=exponent(step) if streaming else None,
        state_bytes=exponent(state) if streaming else None,
        launches=exponent(launches),
        moved=exponent(moved),
    )


def training_cost(mixer: nn.Module, x: Tensor) -> tuple[int, int]:
    """Return operations of a forward and backward pass, and bytes kept between them."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()  # noqa: SLF001 - of tensors without values too
        return tensor

    own = {p.untyped_storage()._cdata for p in mixer.parameters()}  # noqa: SLF001
    with _counter() as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        y, _ = mixer(x.clone().requires_grad_())
        total = sum(size for place, size in kept.items() if place not in own)
        y.sum().backward()
    mixer.zero_grad()
    return counter.get_total_flops(), total


def training_traffic(
    mixer: nn.Module | Callable[[], nn.Module],
    x: Tensor | tuple[int, ...],
    *,
    device: str = "cpu",
) -> Traffic:
    """Count launches and moved bytes of a forward and backward pass after another one.

    What the first pass lays down for all those that follow is left out.

    Args:
        mixer: see `kt_forecast.nn.system.Mixer`; or what makes one, where ``x`` is a shape.
        x: steps; or the shape of steps without values, of which any number costs nothing. Whoever
            looks at a value then fails.
        device: of steps without values.
    """
    if isinstance(x, Tensor):
        assert isinstance(mixer, nn.Module)  # noqa: S101 - see the arguments
        return _traffic(mixer, x)
    with FakeTensorMode(), torch.device(device):
        made = mixer if isinstance(mixer, nn.Module) else mixer()
        return _traffic(made, torch.empty(x))


def _traffic(mixer: nn.Module, x: Tensor) -> Traffic:
    x = x.detach().clone().requires_grad_()
    with torch.no_grad():
        mixer(x)
    with _Watch() as watch:
        y, _ = mixer(x)
        y.sum().backward()
    mixer.zero_grad()
    return watch.traffic


def traffic(call: Callable[[], object]) -> Traffic:
    """Count what a call launches and moves."""
    with _Watch() as watch:
        call()
    return watch.traffic


class _Watch(TorchDispatchMode):
    """Counts what is dispatched while it is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.traffic = Traffic()

    def __torch_dispatch__(
        self,
        func: OpOverload[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]  # noqa: SLF001
        if func.namespace == "aten" and not func.is_view and name not in FREE:
            self.traffic.add(name, _moved(name, [*args, *(kwargs or {}).values()], out))
        return out


def _moved(name: str, args: list[Any], out: Any) -> int:  # noqa: ANN401
    """Return how many bytes an operation reads and writes."""
    read = [_reached(t) for t in tree_leaves(args) if isinstance(t, Tensor)]
    written = [_reached(t) for t in tree_leaves(out) if isinstance(t, Tensor)]
    if name in PICKING:
        read[0] = min(read[0], sum(written))
    elif name in PUTTING:
        put = max(read[1:], default=0)
        read[0] = min(read[0], put)
        written = [read[0]]
    elif name in FILLING:
        read = read[1:]
    return sum(read) + sum(written)


def _reached(x: Tensor) -> int:
    """Return the bytes of a tensor that are apart: what is repeated counts once."""
    extent = 1 + sum((size - 1) * step for size, step in zip(x.shape, x.stride(), strict=True))
    return min(x.numel(), max(extent, 0)) * x.element_size()


@torch.no_grad()
def step_cost(mixer: Any, x: Tensor) -> tuple[int, int]:  # noqa: ANN401
    """Return operations of the step after ``x``, and bytes of the state before it."""
    _, state = mixer(x, mixer.init_state(len(x)))
    with _counter() as counter:
        mixer(x[:, -1:], state)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.tensors().values())
    return counter.get_total_flops(), size


def _counter() -> FlopCounterMode:
    """Count the CPU's fused attention and recurrence too, which torch's own table leaves out."""
    ops = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            ops._scaled_dot_product_flash_attention_for_cpu: _attention_flops,  # noqa: SLF001
            ops._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flops,  # noqa: SLF001
            ops.mkldnn_rnn_layer: _recurrence_flops,
            ops.mkldnn_rnn_layer_backward: _recurrence_backward_flops,
        },
    )


def _attention_flops(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:  # noqa: ANN401
    return sdpa_flop_count(q, k, v)


def _backward_flops(grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:  # noqa: ANN401
    return sdpa_backward_flop_count(grad, q, k, v)


def _recurrence_flops(x: Any, on_input: Any, on_state: Any, *_: Any, **__: Any) -> int:  # noqa: ANN401
    """Return the operations of one recurrent layer: two matrix products a step."""
    return 2 * math.prod(x[:-1]) * (math.prod(on_input) + math.prod(on_state))


def _recurrence_backward_flops(*args: Any, **kwargs: Any) -> int:  # noqa: ANN401
    return 2 * _recurrence_flops(*args, **kwargs)
