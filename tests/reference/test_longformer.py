"""Longformer against properties that only a correct one has (specs 5)."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from kt_forecast import zoo
from kt_forecast.audit import audit, causal
from kt_forecast.errors import InputError
from kt_forecast.nn.streams import Span
from kt_forecast.tasks.forecasting import ForecastingConfig, refuse_unfit
from kt_forecast.tasks.knowledge_tracing import TracingConfig, refuse_illegal
from kt_forecast.zoo.longformer import LocalGlobal

SYSTEM = zoo.load("longformer")
STEPS, WIDTH = 23, 16


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(module):
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module.double().eval()


def config(**settings: object):
    small = {"width": WIDTH, "heads": 2, "window": 3, "tokens": 3, "spacing": 5}
    return SYSTEM.config(**small | settings)


def agree(got, wanted, x):
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0.0)
    weight = noise(*got.shape, seed=9)
    one, other = (
        torch.autograd.grad((y * weight).sum(), x, retain_graph=True)[0] for y in (got, wanted)
    )
    torch.testing.assert_close(one, other, atol=1e-10, rtol=0.0)
    assert one.abs().max() > 0


def read_densely(layer, x, *, dilation):
    """Write out the masks of all pairs, one softmax over window and global steps."""
    step = torch.arange(x.shape[1])
    ago = step[:, None] - step
    span = Span.beginning(x)
    is_token = (step % layer.spacing == 0) & (step < layer.tokens * layer.spacing)
    parts = []
    for head in range(layer.heads):
        stride = dilation if dilation > 1 and head >= layer.heads - layer.heads // 2 else 1
        near = (ago >= 0) & (ago % stride == 0) & (ago < layer.window * stride)
        visible = near | (is_token if layer.published else is_token & (ago >= 0))
        q, (k, v) = layer.asked(x, span), layer.halves(layer.told(x, span))
        part = [t[:, head : head + 1] for t in (q, k, v)]
        parts.append(scaled_dot_product_attention(*part, attn_mask=visible))
    y = torch.cat(parts, 1)
    if layer.of_tokens is not None:
        own = layer.of_tokens
        q, (k, v) = own.asked(x, span), own.halves(own.told(x, span))
        mask = None if layer.published else ago >= 0
        read = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        y = torch.where(is_token[:, None], read, y)
    return layer.merged(y)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 3])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_it_is_one_softmax_over_window_and_global_steps(dilation, tokens, published):
    settings = config(dilation=dilation, tokens=tokens, published=published)
    layer = drawn(LocalGlobal(settings, layer=1))
    x = noise(2, STEPS, WIDTH).requires_grad_()
    got, _ = layer(x, layer.init_state(2), Span.beginning(x))
    agree(got, read_densely(layer, x, dilation=dilation), x)


@pytest.mark.parametrize("tokens", [0, STEPS], ids=["window", "global"])
def test_a_window_of_all_or_only_global_steps_is_full_attention(tokens):
    """Global steps equal full attention only where their maps are those of the others."""
    window = 1 if tokens else STEPS
    layer = drawn(LocalGlobal(config(window=window, tokens=tokens, spacing=1), layer=0))
    if tokens:
        layer.of_tokens.query.load_state_dict(layer.query.state_dict())
        layer.of_tokens.key_value.load_state_dict(layer.key_value.state_dict())
    x = noise(2, STEPS, WIDTH).requires_grad_()
    span = Span.beginning(x)
    got, _ = layer(x, layer.init_state(2), span)
    q, (k, v) = layer.asked(x, span), layer.halves(layer.told(x, span))
    full = layer.merged(scaled_dot_product_attention(q, k, v, is_causal=True))
    agree(got, full, x)


def test_maps_of_global_steps_start_as_those_of_the_others():
    layer = LocalGlobal(config(), layer=0)
    for name in ("query.weight", "key_value.weight", "key_value.bias"):
        assert torch.equal(layer.get_parameter(name), layer.of_tokens.get_parameter(name))
    with torch.no_grad():
        layer.query.weight.zero_()
    assert layer.of_tokens.query.weight.abs().max() > 0


@pytest.mark.parametrize("published", [False, True])
def test_only_the_published_global_steps_see_the_future(published):
    module = drawn(SYSTEM.build(config(published=published)))
    x = noise(1, 9, WIDTH).requires_grad_()
    slope = torch.autograd.functional.jacobian(lambda t: module(t)[0].sum((0, 2)), x)[:, 0]
    reads = slope.abs().sum(-1)
    assert bool((reads.triu(1) > 0).any()) == published
    if published:
        assert (reads > 0).all(), "two layers spread the whole to every step"


def test_the_auditor_finds_the_published_form():
    module = drawn(SYSTEM.build(config(published=True)))
    report = audit(
        module,
        noise(2, 11, WIDTH),
        causal(axis=1),
        call=lambda inputs: module(*inputs.values())[0],
        modes=("evaluation",),
        moments=2,
    )
    assert report.verdict == "leak", report.summary()


def test_the_published_form_is_refused_where_it_would_leak():
    settings = config(published=True)
    with pytest.raises(InputError, match="published=true"):
        refuse_illegal(SYSTEM, settings, TracingConfig(scheme="shifted"))
    with pytest.raises(InputError, match="dense = false"):
        refuse_unfit(SYSTEM, settings, ForecastingConfig(dense=True))
    with pytest.raises(InputError, match="published = false"):
        SYSTEM.build(settings).init_state(1)
