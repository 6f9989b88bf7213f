"""Adaptive attention span against properties that only a correct one has (specs 19)."""

import pytest
import torch

from kt_forecast import zoo
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import auxiliary_loss
from kt_forecast.zoo.adaptive_span import Spanned

SYSTEM = zoo.load("adaptive_span")
STEPS, WIDTH = 23, 16


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(module, *shares):
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
        for spanned in (m for m in module.modules() if isinstance(m, Spanned)):
            spanned.share.copy_(torch.tensor(shares))
    return module.double().eval()


def config(**settings: object):
    return SYSTEM.config(**{"width": WIDTH, "heads": 2, "longest": 8, "ramp": 4} | settings)


def dense(layer, x):
    """Weigh all earlier steps, each times its place on the ramp, and renormalise."""
    span, step = Span.beginning(x), torch.arange(x.shape[1])
    ago = step[:, None] - step
    reach = layer.share.clamp(0, 1)[:, None, None] * layer.longest
    counts = ((layer.ramp + reach - ago) / layer.ramp).clamp(0, 1) * (ago >= 0)
    q, (k, v) = layer.asked(x, span), layer.halves(layer.told(x, span))
    weight = counts * (q @ k.mT * layer.size**-0.5).exp()
    return layer.merged(weight / weight.sum(-1, keepdim=True) @ v)


@pytest.mark.parametrize("shares", [(0.01, 0.99), (0.3, 0.61), (0.55, 0.55)])
def test_it_is_attention_times_a_ramp(shares):
    layer = drawn(Spanned(config()), *shares)
    x = noise(2, STEPS, WIDTH).requires_grad_()
    got, _ = layer(x, layer.init_state(2), Span.beginning(x))
    wanted = dense(layer, x)
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0.0)
    weight, leaves = noise(*got.shape, seed=9), (x, layer.share, layer.query.weight)
    slopes = (
        torch.autograd.grad((y * weight).sum(), leaves, retain_graph=True) for y in (got, wanted)
    )
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0.0)
        assert one.abs().max() > 0


def test_a_span_of_all_is_a_plain_window():
    layer, x = drawn(Spanned(config(longest=STEPS)), 1.0, 1.0), noise(2, STEPS, WIDTH)
    span = Span.beginning(x)
    q, (k, v) = layer.asked(x, span), layer.halves(layer.told(x, span))
    full = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    got, _ = layer(x, layer.init_state(2), span)
    torch.testing.assert_close(got, layer.merged(full), atol=1e-10, rtol=0.0)


def test_only_the_ramp_has_a_slope():
    layer = drawn(Spanned(config()), 0.25, 0.5)
    for head, reach in enumerate((2.0, 4.0)):
        for ago, counts in enumerate(layer.bias(12)[head].exp().unbind()):
            slope = torch.autograd.grad(counts, layer.share, retain_graph=True)[0][head]
            on_ramp = reach < ago < reach + layer.ramp
            assert slope.item() == pytest.approx(layer.longest / layer.ramp if on_ramp else 0.0)


def test_each_head_keeps_what_it_reads_and_no_more():
    layer = drawn(Spanned(config()), 0.1, 1.0)
    assert layer.windows() == [1 + 4, 8 + 4]
    assert [kept.shape[1] for kept in layer.init_state(3)] == [4, 11]
    x = noise(1, STEPS, WIDTH)
    moved = x.clone()
    moved[:, 0] += 1.0
    both = (layer(t, layer.init_state(1), Span.beginning(t))[0] for t in (x, moved))
    changed = (next(both) != next(both)).any(-1)[0]
    assert changed[: 8 + 4].all()
    assert not changed[8 + 4 :].any()


def test_a_state_of_a_longer_or_shorter_span_goes_on():
    """Spans move while streams are trained; what is no longer kept is not read as zeros."""
    layer, x = drawn(Spanned(config()), 0.5, 0.5), noise(2, 12, WIDTH)
    _, state = layer(x, layer.init_state(2), Span.beginning(x))
    seen = torch.full((2,), 12)
    span = Span(seen, torch.full((2,), 3), 3, 12, 12, whole=True)
    for share in (0.1, 1.0):
        with torch.no_grad():
            layer.share.fill_(share)
        y, after = layer(x[:, :3], state, span)
        assert y.isfinite().all()
        assert [kept.shape[1] for kept in after] == [min(7, n - 1) for n in layer.windows()]
    with torch.no_grad():
        layer.key_value.weight.zero_()
        layer.key_value.bias.zero_()
        layer.key_value.bias[WIDTH:] = 1.0
    x = noise(2, 12, WIDTH)
    _, state = layer(x, tuple(kept[:, :7] for kept in layer.init_state(2)), Span.beginning(x))
    ones = layer.merged(torch.ones(2, 2, 3, WIDTH // 2, dtype=torch.float64))
    torch.testing.assert_close(layer(x[:, :3], state, span)[0], ones, atol=1e-10, rtol=0.0)


def test_training_pays_for_spans_and_draws_them_back():
    module = drawn(SYSTEM.build(config(penalty=0.01, layers=2)), 0.25, 0.5).train()
    x = noise(2, 5, WIDTH)
    module(x)
    assert auxiliary_loss(module, None).item() == pytest.approx(0.01 * 2 * (2 + 4) / 2)
    module.eval()(x)
    assert auxiliary_loss(module, None) is None
    with torch.no_grad():
        for layer in module.spanned():
            layer.share.copy_(torch.tensor([-0.5, 1.5]))
    module.train()(x)
    slopes = torch.autograd.grad(
        auxiliary_loss(module, None), [layer.share for layer in module.spanned()]
    )
    for slope in slopes:
        assert slope[0] < 0 < slope[1]


def test_shares_beyond_their_ends_still_learn():
    layer = drawn(Spanned(config()), -0.1, 0.5)
    x = noise(2, STEPS, WIDTH)
    y, _ = layer(x, layer.init_state(2), Span.beginning(x))
    slope = torch.autograd.grad((y * noise(*y.shape, seed=3)).sum(), layer.share)[0]
    assert slope.abs().min() > 0
