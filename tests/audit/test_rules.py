"""The rules against torch's own operator database.

Every input element of every operator gets a label of its own. Then each element is changed in
turn, and every output element that moves must carry a label at least as late. A proof is only as
good as this table.
"""

import sys
import time
import types
import unittest
import warnings
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from kt_forecast.audit.dependency import track

SHARES = 4
"""The database is split, so that each test stays short."""

UNSET = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"}
"""Operators whose outputs are whatever was in memory."""

LARGEST = 48
"""Elements changed one by one; larger samples are left out."""

CHANGES = (1.7, -2.3)


def operators():
    if "expecttest" not in sys.modules:
        try:
            import expecttest
        except ModuleNotFoundError:
            expecttest = types.ModuleType("expecttest")
            expecttest.TestCase = unittest.TestCase
        sys.modules["expecttest"] = expecttest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip(
            "torch.testing._internal.common_methods_invocations", exc_type=ImportError
        )
    return module.op_db


def samples(op, count):
    found = []
    for sample in op.sample_inputs("cpu", torch.float32):
        tensors = [x for x in tree_leaves((sample.input, sample.args, sample.kwargs)) if usable(x)]
        if tensors and 0 < sum(x.numel() for x in tensors) <= LARGEST:
            found.append((sample.input, sample.args, sample.kwargs))
        if len(found) >= count:
            break
    return found


def usable(x):
    return isinstance(x, Tensor) and x.layout == torch.strided


def changed(x, place, change, generator):
    """Return a tensor with one element exchanged for another of its kind."""
    other = x.clone(memory_format=torch.contiguous_format)
    flat = other.view(-1)
    if x.dtype == torch.bool:
        flat[place] = not flat[place]
    elif x.dtype.is_floating_point or x.is_complex():
        flat[place] += change
    else:
        flat[place] = flat[torch.randint(x.numel(), (1,), generator=generator)]
    return other


class Case:
    """One way to call one operator on one sample."""

    def __init__(self, call, sample, labelled):
        leaves = [x for x in tree_leaves(sample) if usable(x)]
        self.names = {id(x): f"{i}" for i, x in enumerate(leaves)}
        self.inputs = {self.names[id(x)]: x.detach().clone() for x in leaves}
        self.labelled = [self.names[id(x)] for x in leaves if labelled(x, sample)]
        self.sample, self.call = sample, call

    def run(self, inputs):
        torch.manual_seed(0)
        filled = tree_map_only(
            Tensor, lambda x: inputs[self.names[id(x)]] if usable(x) else x, self.sample
        )
        return [x for x in tree_leaves(self.call(*filled)) if isinstance(x, Tensor)]

    def labels(self, generator):
        total = sum(self.inputs[n].numel() for n in self.labelled)
        order = torch.randperm(total, generator=generator)
        parts = order.split([self.inputs[n].numel() for n in self.labelled])
        return {
            n: part.reshape(self.inputs[n].shape)
            for n, part in zip(self.labelled, parts, strict=True)
        }

    def missed(self, generator):
        """Return what moved although its label denies it, or None; and whether it was mixed."""
        with torch.no_grad():
            before = [x.clone() for x in self.run(clones(self.inputs))]
        available = self.labels(generator)
        found = track(self.run, self.inputs, available)
        latest = max([e.moment for e in found.escapes], default=-1)
        for name in self.labelled:
            x = self.inputs[name]
            for place in range(x.numel()):
                moment = int(available[name].reshape(-1)[place])
                for change in CHANGES if x.is_floating_point() else CHANGES[:1]:
                    if moment <= latest:
                        continue
                    inputs = clones(self.inputs)
                    inputs[name] = changed(x, place, change, generator)
                    try:
                        with torch.no_grad():
                            after = self.run(inputs)
                    except (RuntimeError, IndexError, ValueError):
                        continue
                    labels = list(found.outputs.values())
                    for a, b, label in zip(before, after, labels, strict=True):
                        if escapes_label(a, b, label, moment):
                            return (name, place, change), bool(found.unknown)
        return None, bool(found.unknown)


def clones(inputs):
    return {n: x.clone(memory_format=torch.contiguous_format) for n, x in inputs.items()}


def escapes_label(before, after, label, moment):
    if before.shape != after.shape:
        return int(label.max() if label.numel() else -1) < moment
    if before.layout != torch.strided or not label.numel():
        return bool((label < moment).any())
    if before.is_complex():
        same = ((before == after) | before.isnan() & after.isnan()).reshape(label.shape)
    else:
        same = (before == after) | (before != before) & (after != after)
    return bool((~same & (label < moment)).any())


def ways(op):
    yield "all inputs", op, lambda x, sample: True
    yield "first input", op, lambda x, sample: x is sample[0]
    in_place = op.get_inplace()
    if in_place is not None:

        def overwrite(x, args, kwargs):
            in_place(x, *args, **kwargs)
            return x

        yield "in place", overwrite, lambda x, sample: True


def fuzz(op, counts, failures):
    """Try an operator in every way, and count what became of it."""
    try:
        found = samples(op, 3)
    except Exception:  # noqa: BLE001 - some samples need what this machine lacks
        found = []
    if not found:
        counts["without a small sample"] += 1
        return
    outcome = "unrunnable"
    for way, call, labelled in ways(op):
        for sample in found:
            function = call if way == "in place" else spread_call(call)
            case = Case(function, sample, labelled)
            if not case.labelled or (
                way == "first input" and len(case.labelled) == len(case.inputs)
            ):
                continue
            try:
                with torch.no_grad():
                    case.run(clones(case.inputs))
            except Exception:  # noqa: BLE001, S112 - the sample cannot be run this way
                continue
            miss, mixed = case.missed(torch.Generator().manual_seed(1))
            if miss is not None:
                failures.append((op.name, op.variant_test_name, way, miss))
                counts["unsound"] += 1
                return
            outcome = "mixed" if mixed or outcome == "mixed" else "sound"
    counts[outcome] += 1
    if outcome == "mixed":
        failures.append((op.name, "mixed"))


def spread_call(op):
    return lambda x, args, kwargs: op(x, *args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.filterwarnings("ignore")
def test_no_operator_moves_an_output_beyond_its_label(share, capsys):
    counts, failures = Counter(), []
    chosen = [
        op
        for op in operators()
        if op.name not in UNSET and torch.float32 in op.supported_dtypes("cpu")
    ]
    start = time.monotonic()
    for op in chosen[share::SHARES]:
        fuzz(op, counts, failures)
    with capsys.disabled():
        print(f"\noperators {share + 1}/{SHARES}: {dict(counts)}, {time.monotonic() - start:.0f} s")
    assert [f for f in failures if f[1] != "mixed"] == []
    assert counts["sound"] > 50


HELD = torch.tensor


@pytest.mark.parametrize(
    "indices",
    [
        lambda i: (i,),
        lambda i: (HELD([[0], [1]]), i),
        lambda i: (i, HELD([1, 0])),
        lambda i: (slice(None), i, HELD([0, 2])),
        lambda i: (i, slice(None), HELD([0, 2])),
        lambda i: (HELD([0, 1]), slice(None), i),
        lambda i: (HELD([1]), i, i),
    ],
)
@pytest.mark.parametrize("writes", ["read", "written", "added"])
def test_known_indices_beside_computed_ones_cover_what_moves(indices, writes):
    x = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))
    chosen = HELD([0, 1])

    def call(x, i, values):
        at = indices(i)
        if writes == "read":
            return x[at]
        out = x.clone()
        if writes == "written":
            out[at] = values
            return out
        at = tuple(
            torch.arange(x.shape[a]) if isinstance(k, slice) else k for a, k in enumerate(at)
        )
        if any(k.ndim == 1 and len(k) == 3 for k in at):
            return x[indices(i)]
        return out.index_put(at, values, accumulate=True)

    for labelled in (lambda *_: True, lambda part, sample: part is not sample[0]):
        case = Case(call, (x, chosen, HELD(2.0)), labelled)
        for seed in range(3):
            missed, _ = case.missed(torch.Generator().manual_seed(seed))
            assert missed is None


@pytest.mark.parametrize("routed", [False, True])
def test_rows_in_groups_see_their_own_row_only(routed):
    if not hasattr(torch, "_grouped_mm"):
        pytest.skip("this torch has no grouped product")
    rows, matrices = torch.randn(3, 4), torch.randn(2, 4, 4)

    def call(rows, matrices, ends):
        return torch._grouped_mm(rows, matrices, offs=ends)

    ends = torch.tensor([1, 3], dtype=torch.int32)
    case = Case(call, (rows, matrices, ends), lambda x, _: routed or x.dtype == torch.float32)
    missed, mixed = case.missed(torch.Generator().manual_seed(0))
    assert missed is None
    assert not mixed
    alone = {case.names[id(rows)]: torch.arange(3)[:, None]}
    found = track(case.run, case.inputs, alone)
    assert torch.equal(found.outputs["0"], torch.arange(3)[:, None].expand(3, 4))
