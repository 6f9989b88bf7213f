"""Systems that read exactly, but not all: no tensor of all pairs of steps, costs that keep growing.

The contract tests count what a pass keeps and computes between two lengths. Here it is the largest
tensor that a pass ever forms, and, among the slow tests, the growth up to very long sequences.
"""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kt_forecast import zoo
from kt_forecast.audit.cost import growth

WIDTH = 16
SYSTEMS = {
    "longformer": ("longformer", {}),
    "adaptive_span": ("adaptive_span", {}),
    "all_attention": ("all_attention", {}),
    "causal": ("flash_attention", {}),
    "window": ("flash_attention", {"pattern": "window"}),
    "dilated": ("flash_attention", {"pattern": "dilated"}),
    "blocks": ("flash_attention", {"pattern": "blocks"}),
    "strided": ("sparse_transformer", {"reading": "heads"}),
    "merged": ("sparse_transformer", {"reading": "merged"}),
    "fixed": ("sparse_transformer", {"pattern": "fixed", "reading": "merged", "summary": 1}),
}
ROOTED = {"strided", "merged", "fixed"}
EACH = pytest.mark.parametrize("name", SYSTEMS)


def made(name, length):
    system, settings = SYSTEMS[name]
    root = {"stride": math.isqrt(length)} if name in ROOTED else {}
    small = {"width": WIDTH, "heads": 2, "expansion": 1} | settings | root
    found = zoo.load(system)
    known = {k: v for k, v in small.items() if k in found.config.model_fields}
    return found.build(found.config(**known))


class Largest(TorchDispatchMode):
    """Notes the largest piece of memory that any operation gave."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                self.size = max(self.size, x.untyped_storage().nbytes())
        return result


def largest(name, length):
    module = made(name, length)
    x = torch.randn(1, length, WIDTH, requires_grad=True)
    with Largest() as found:
        module(x)[0].sum().backward()
    return found.size


@EACH
def test_nothing_that_a_pass_forms_grows_with_the_square(name):
    few, many = (largest(name, length) for length in (1024, 4096))
    most = 1.5 if name in ROOTED else 1.0
    assert math.log(many / few) / math.log(4) < most + 0.1


@pytest.mark.slow
@EACH
def test_costs_grow_as_promised_to_very_long_sequences(name):
    """Counted, not timed; full attention would take too long and is left out."""
    if name == "causal":
        pytest.skip("full attention of so many steps takes minutes")
    measured = growth(
        lambda length: made(name, length), WIDTH, streaming=False, lengths=(1024, 65536)
    )
    wanted = 1.5 if name in ROOTED else 1.0
    assert measured.training_flops == pytest.approx(wanted, abs=0.2)
    assert measured.training_bytes == pytest.approx(1.0, abs=0.1)
