"""Operations of a forward pass, counted as they are done."""

import warnings
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def flops_of(forward: Callable[[], object]) -> float:
    """Return the operations of matrix products that a call does.

    Attention and recurrences are done the plain way for it, as fused ones hide their products.
    """
    counter = FlopCounterMode(display=False)
    with (
        warnings.catch_warnings(action="ignore"),
        torch.no_grad(),
        torch.backends.mkldnn.flags(enabled=False),
        sdpa_kernel(SDPBackend.MATH),
        counter,
    ):
        forward()
    return float(counter.get_total_flops())
