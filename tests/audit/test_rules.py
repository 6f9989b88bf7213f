"""The rules against torch's own operator database.

Every input element of every operator gets a label of its own. Then each element is changed in
turn, and every output element that moves must carry a label at least as late. A proof is only as
good as this table.
"""

import itertools
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

from kt_forecast.audit.dependency import NEVER, track
from kt_forecast.audit.dependency.bounds import reached
from kt_forecast.audit.dependency.engine import Tracker
from kt_forecast.audit.dependency.labels import Moments

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


def smaller(i, t):
    return torch.minimum(i, t)


def larger(i, t):
    return torch.maximum(i, t)


def clamped(i, t):
    return i.clamp(1, 3) - t.clamp_max(1)


def known_choice(i, t):
    return torch.where(t > 2, t, i)


def own_choice(i, t):
    return torch.where(i > 2, i, t - 1)


def filled(i, t):
    return i.masked_fill(i >= t, 1)


def wrapped(i, t):
    return (i + t + 2) % 4


def shifted(i, t):
    return i - 1 + (t > 3).long()


def turned(i, t):
    return i.flip(-1).roll(1, -1) - t


def ranked(i, t):
    return i.sort(-1).values + i.argsort(-1) - t


def best(i, t):
    return i.topk(1, -1).indices.expand_as(i).clamp_max(4) + t % 2


def running(i, t):
    return i.cummax(-1).values - t


def falling(i, t):
    return i.cummin(-1).values + i.amax(-1, keepdim=True) - t


def chained(i, t):
    return (t * 2 - 3).expand_as(i).gather(-1, i.clamp(0, 5))


def narrow(i, t):
    return i.int().clamp_min(-2).long() + t.int()


def joined(i, t):
    return torch.cat([i[..., 3:] - t[3:], torch.minimum(i, t)[..., :3]], -1)


def mirrored(i, t):
    return t - torch.minimum(i, t).clamp_min(-1)


def highest_first(i, t):
    return torch.maximum(i, t).sort(-1, descending=True).values


def stacked(i, t):
    return torch.stack([i, t.expand_as(i) - 2]).unbind()[1].view(i.shape) + i.argmax(-1, True)


def overwritten(i, t):
    found = torch.minimum(i, t)
    found[..., 0] = 5
    return found


BOUNDING = (
    smaller, larger, clamped, known_choice, own_choice, filled, wrapped, shifted, turned, ranked,
    best, running, falling, chained, narrow, joined, mirrored, highest_first,
    stacked, overwritten,
)  # fmt: skip
PLACES = 6
"""Rows that an index may reach."""


def drawn_program(seed):
    """Return what computes an index, what it computes it from, and the names of its parts."""
    draw = torch.Generator().manual_seed(seed)
    parts = [BOUNDING[int(n)] for n in torch.randint(len(BOUNDING), (3,), generator=draw)]

    def computed(key):
        index, place = key.argsort(-1), torch.arange(PLACES)
        for part in parts:
            index = part(index, place)
        return index

    return computed, torch.randn(2, 2, PLACES, generator=draw), [p.__name__ for p in parts]


def programs(count, start):
    narrowed = 0
    for seed in range(start, start + count):
        computed, sample, said = drawn_program(seed)

        def call(table, key, computed=computed, whole_rows=seed % 2):
            index = computed(key).clamp(0, PLACES - 1)
            if not whole_rows:
                return table.gather(-1, index)
            row = torch.arange(len(index))[:, None] * PLACES
            return table.reshape(-1, 1).index_select(0, (index + row).flatten()).view(index.shape)

        sample = tuple(sample)
        for labelled in (lambda *_: True, lambda x, given: x is given[0]):
            case = Case(call, sample, labelled)
            missed, _ = case.missed(torch.Generator().manual_seed(seed))
            assert missed is None, (seed, said, missed)
        rows = {case.names[id(sample[0])]: torch.arange(PLACES)[None]}
        labels = track(case.run, case.inputs, rows).outputs["0"]
        narrowed += bool((labels < PLACES - 1).any())
    return narrowed


@pytest.mark.parametrize("dim", [0, 1])
def test_what_an_index_can_reach_is_the_greatest_between_its_bounds(dim):
    draw = torch.Generator().manual_seed(dim)
    labels = torch.randint(50, (7, 7), generator=draw, dtype=torch.int16)
    ends = torch.randint(-2, 9, (2, 7, 7), generator=draw).sort(0).values
    found = reached(labels, dim, (ends[0], ends[1]), labels)
    low, high = ends.clamp(0, 6)
    for i, j in itertools.product(range(7), range(7)):
        line = labels.select(1 - dim, j if dim == 0 else i)
        assert found[i, j] == line[low[i, j] : high[i, j] + 1].max()


def test_bounds_of_computed_indices_cover_what_moves():
    assert programs(12, 0) > 2


@pytest.mark.slow
def test_bounds_of_many_computed_indices_cover_what_moves():
    assert programs(1500, 1000) > 400


@pytest.mark.parametrize("start", [0, pytest.param(2000, marks=pytest.mark.slow)])
def test_computed_indices_stay_within_their_bounds(start):
    narrow = 0
    for seed in range(start, start + (300 if start else 60)):
        computed, _, said = drawn_program(seed)
        draw = torch.Generator().manual_seed(seed)
        keys = torch.randn(30, 2, PLACES, generator=draw)
        keys = torch.cat([keys, keys.sort(-1).values, keys.sort(-1, descending=True).values])
        tracker = Tracker(Moments([]))
        tracker.label(keys[0], torch.zeros(2, PLACES))
        with torch.no_grad(), tracker:
            index = computed(keys[0])
        found = tracker.bounds(index)
        if found is None:
            continue
        values = torch.stack([computed(key) for key in keys])
        narrow += bool((found[1] < PLACES - 1).any() or (found[0] > 0).any())
        assert bool((found[0] <= values).all()), said
        assert bool((values <= found[1]).all()), said
    assert narrow > 25


def factor(seed, shape, *, computed):
    """Return a matrix, and where it is known to be zero."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw), torch.rand(shape[-2:], generator=draw) < computed


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("batch", [(), (2,)])
def test_zeros_of_a_product_of_known_zeros_are_known(seed, batch):
    a, no_a = factor(seed, (*batch, 3, 4), computed=0.7)
    b, no_b = factor(seed + 9, (*batch, 4, 3), computed=0.6)
    later = torch.randn(*batch, 3, 2, generator=torch.Generator().manual_seed(seed))

    def call(a, b, later):
        return (a.masked_fill(no_a, 0.0) @ b.masked_fill(no_b, 0.0)) @ later

    case = Case(call, (a, b, later), lambda *_: True)
    for order in range(3):
        missed, mixed = case.missed(torch.Generator().manual_seed(order))
        assert missed is None
        assert not mixed
    # Exactly: a row of the last factor counts where some path leads to it.
    paths = (~no_a).float() @ (~no_b).float() > 0
    rows = {case.names[id(later)]: torch.arange(3)[:, None].expand_as(later)}
    found = track(case.run, case.inputs, rows).outputs["0"]
    reached = torch.where(paths, torch.arange(3), NEVER).amax(-1)
    assert torch.equal(found, reached[:, None].expand_as(found))
