"""Sparse Transformer against properties that only a correct one has (specs 2)."""

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from kt_forecast import zoo
from kt_forecast.audit.cost import growth
from kt_forecast.nn.streams import Span
from kt_forecast.zoo.sparse_transformer import SparseAttention, readings

SYSTEM = zoo.load("sparse_transformer")
STEPS, WIDTH = 23, 16
PATTERNS = pytest.mark.parametrize("pattern", ["strided", "fixed"])


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(module):
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module.double().eval()


def config(**settings: object):
    small = {"width": WIDTH, "heads": 2, "stride": 5, "summary": 2}
    return SYSTEM.config(**small | settings)


def sets(pattern, *, stride=5, summary=2, steps=STEPS):
    """Write out which steps are read near and far."""
    i, j = torch.arange(steps)[:, None], torch.arange(steps)
    if pattern == "strided":
        near, far = i - j < stride, (i - j) % stride == 0
    else:
        near, far = i // stride == j // stride, j % stride >= stride - summary
    return near & (j <= i), far & (j <= i)


def dense(layer, x, mask):
    span = Span.beginning(x)
    q, (k, v) = layer.asked(x, span), layer.halves(layer.told(x, span))
    return layer.merged(scaled_dot_product_attention(q, k, v, attn_mask=mask))


def agree(got, wanted, x):
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0.0)
    weight = noise(*got.shape, seed=9)
    one, other = (
        torch.autograd.grad((y * weight).sum(), x, retain_graph=True)[0] for y in (got, wanted)
    )
    torch.testing.assert_close(one, other, atol=1e-10, rtol=0.0)
    assert one.abs().max() > 0


@PATTERNS
@pytest.mark.parametrize("reading", ["near", "far", "both"])
def test_it_reads_the_written_sets_in_one_softmax(pattern, reading):
    layer = drawn(SparseAttention(config(pattern=pattern), (reading,)))
    x = noise(2, STEPS, WIDTH).requires_grad_()
    near, far = sets(pattern)
    mask = {"near": near, "far": far, "both": near | far}[reading]
    wanted = dense(layer, x, mask)
    agree(layer(x, layer.init_state(2), Span.beginning(x))[0], wanted, x)
    state, parts, seen = layer.init_state(2), [], 0
    for part in x.split([6, 1, 1, 15], 1):
        before = torch.full((2,), seen)
        count = torch.full((2,), part.shape[1])
        span = Span(before, count, part.shape[1], seen, seen, whole=True)
        y, state = layer(part, state, span)
        parts.append(y)
        seen += part.shape[1]
    agree(torch.cat(parts, 1), wanted, x)


@PATTERNS
def test_heads_may_read_one_set_each(pattern):
    layer = drawn(SparseAttention(config(pattern=pattern), ("near", "far")))
    x = noise(2, STEPS, WIDTH).requires_grad_()
    wanted = dense(layer, x, torch.stack(sets(pattern)))
    agree(layer(x, layer.init_state(2), Span.beginning(x))[0], wanted, x)


def test_a_stretch_of_all_and_a_stride_of_one_are_full_attention():
    x = noise(2, STEPS, WIDTH).requires_grad_()
    full = torch.ones(STEPS, STEPS, dtype=torch.bool).tril()
    for pattern, stride, reading in (
        *((p, STEPS, "near") for p in ("strided", "fixed")),
        ("strided", 1, "far"),
        ("strided", STEPS, "both"),
    ):
        settings = config(pattern=pattern, stride=stride, summary=1)
        layer = drawn(SparseAttention(settings, (reading,)))
        agree(layer(x, layer.init_state(2), Span.beginning(x))[0], dense(layer, x, full), x)


@PATTERNS
def test_two_layers_join_every_step_to_all_before_it(pattern):
    near, far = (mask.double() + torch.eye(STEPS) for mask in sets(pattern))
    full = torch.ones(STEPS, STEPS, dtype=torch.bool).tril()
    assert torch.equal(far @ near > 0, full), "near below far, as layers stand"
    if pattern == "fixed":
        assert not torch.equal(near @ far > 0, full)
    for reading in ("alternating", "merged", "heads"):
        module = drawn(SYSTEM.build(config(pattern=pattern, reading=reading)))
        x = noise(1, STEPS, WIDTH).requires_grad_()
        last = torch.autograd.grad(module(x)[0][0, -1].sum(), x)[0]
        assert (last.abs().sum(-1) > 0).all()


def test_layers_take_turns_near_first():
    settings = config(reading="alternating", layers=4)
    assert [readings(settings, i) for i in range(4)] == [("near",), ("far",)] * 2


@pytest.mark.parametrize(
    "lengths", [(1024, 4096), pytest.param((1024, 65536), marks=pytest.mark.slow)], ids=str
)
def test_cost_grows_with_the_square_root(lengths):
    def sized(length):
        settings = config(stride=math.isqrt(length), reading="merged", expansion=1, layers=2)
        return SYSTEM.build(settings)

    measured = growth(sized, WIDTH, streaming=False, lengths=lengths)
    assert measured.training_flops == pytest.approx(1.5, abs=0.2)
    assert measured.training_bytes == pytest.approx(1.0, abs=0.1)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="summary may not exceed stride"):
        config(pattern="fixed", stride=2, summary=3)
    with pytest.raises(ValueError, match="heads must be even"):
        config(reading="heads", heads=1)
