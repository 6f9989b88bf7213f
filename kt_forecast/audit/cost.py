"""Counts what a mixer costs as sequences grow: operations and bytes, never seconds.

Floating-point operations are counted from the shapes of every matrix product and attention call;
bytes are those of the distinct tensors kept for the backward pass. Both are the same on every
machine and in every run, so that a promised growth can be tested.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


@dataclass(frozen=True)
class Growth:
    """Exponents of growth with the sequence length, measured between two lengths.

    Attributes:
        training_flops: of one forward and backward pass.
        training_bytes: kept for the backward pass.
        step_flops: of one streamed step, in the number of steps before it; None without streaming.
        state_bytes: of the streaming state; None without streaming.
    """

    training_flops: float
    training_bytes: float
    step_flops: float | None
    state_bytes: float | None


def growth(
    mixer: nn.Module | Callable[[int], nn.Module],
    width: int,
    *,
    streaming: bool,
    lengths: tuple[int, int] = (2048, 4096),
) -> Growth:
    """Measure how a mixer's cost grows from the first length to the second.

    Args:
        mixer: see `kt_forecast.nn.system.Mixer`; or what makes one for a length.
        width: numbers in a step's vector.
        streaming: whether to measure a streamed step and the state too.
        lengths: two sequence lengths; the longer, the nearer to the limit.

    Returns:
        The four exponents: 0 for constant, 1 for linear, 2 for quadratic.
    """
    flops, saved, step, state = [], [], [], []
    for length in lengths:
        x = torch.randn(1, length, width, generator=torch.Generator().manual_seed(0))
        sized = mixer if isinstance(mixer, nn.Module) else mixer(length)
        counted, kept = training_cost(sized, x)
        flops.append(counted)
        saved.append(kept)
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
    )


def training_cost(mixer: nn.Module, x: Tensor) -> tuple[int, int]:
    """Return operations of a forward and backward pass, and bytes kept between them."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in mixer.parameters()}
    with _counter() as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        y, _ = mixer(x.clone().requires_grad_())
        total = sum(size for place, size in kept.items() if place not in own)
        y.sum().backward()
    mixer.zero_grad()
    return counter.get_total_flops(), total


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
