"""All-attention against properties that only a correct one has (specs 20)."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from kt_forecast import zoo
from kt_forecast.nn.streams import Span
from kt_forecast.zoo.all_attention import PersistentAttention

SYSTEM = zoo.load("all_attention")
STEPS, WIDTH = 23, 16


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(**settings: object):
    small = {"width": WIDTH, "heads": 2, "window": 5, "persistent": 3}
    layer = PersistentAttention(SYSTEM.config(**small | settings)).double()
    with torch.no_grad():
        for i, parameter in enumerate(layer.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return layer


def parts(layer, x):
    """Return logits and values of steps and of learned vectors, and who sees which step."""
    span, step = Span.beginning(x), torch.arange(x.shape[1])
    ago = step[:, None] - step
    q, (k, v) = layer.asked(x, span), layer.halves(layer.told(x, span))
    scale = layer.size**-0.5
    near = (q @ k.mT * scale).masked_fill((ago < 0) | (ago >= layer.window), -torch.inf)
    keys, values = layer.keys * layer.size**0.5, layer.values * layer.keys.shape[1] ** 0.5
    return near, v, layer.split(layer.query(x)) @ keys.mT * scale, values


def agree(got, wanted, leaves):
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0.0)
    weight = noise(*got.shape, seed=9)
    slopes = (
        torch.autograd.grad((y * weight).sum(), leaves, retain_graph=True) for y in (got, wanted)
    )
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0.0)
        assert one.abs().max() > 0


@pytest.mark.parametrize("window", [1, 5, 40])
@pytest.mark.parametrize("persistent", [3, 9])
def test_it_is_a_gate_between_attention_and_a_softmax_network(window, persistent):
    layer = attention(window=window, persistent=persistent)
    x = noise(2, STEPS, WIDTH).requires_grad_()
    near, v, learned, values = parts(layer, x)
    gate = (learned.logsumexp(-1) - near.logsumexp(-1)).sigmoid()[..., None]
    wanted = (1 - gate) * (near.softmax(-1) @ v) + gate * (learned.softmax(-1) @ values)
    got, _ = layer(x, layer.init_state(2), Span.beginning(x))
    agree(got, layer.merged(wanted), (x, layer.keys, layer.values, layer.query.weight))


def test_without_learned_vectors_it_is_plain_attention():
    layer, x = attention(persistent=0), noise(2, STEPS, WIDTH).requires_grad_()
    assert not hasattr(layer, "keys")
    span, step = Span.beginning(x), torch.arange(STEPS)
    ago = step[:, None] - step
    q, (k, v) = layer.asked(x, span), layer.halves(layer.told(x, span))
    wanted = scaled_dot_product_attention(q, k, v, attn_mask=(ago >= 0) & (ago < 5))
    got, _ = layer(x, layer.init_state(2), span)
    agree(got, layer.merged(wanted), (x, layer.query.weight))


def test_without_a_context_it_is_a_softmax_network():
    """Keys that no query meets leave the learned ones alone."""
    layer, x = attention(window=1), noise(2, STEPS, WIDTH)
    with torch.no_grad():
        layer.query.bias.fill_(40.0)
        layer.query.weight.mul_(1e-3)
        layer.key_value.weight[:WIDTH].zero_()
        layer.key_value.bias[:WIDTH].fill_(-40.0)
    _, _, learned, values = parts(layer, x)
    got, _ = layer(x, layer.init_state(2), Span.beginning(x))
    wanted = layer.merged(learned.softmax(-1) @ values)
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0.0)


def test_learned_keys_have_no_position():
    """The same step anywhere reads them alike."""
    layer = attention(window=1)
    x = noise(1, 1, WIDTH).expand(1, STEPS, -1)
    got, _ = layer(x, layer.init_state(1), Span.beginning(x))
    torch.testing.assert_close(got, got[:, :1].expand_as(got), atol=1e-10, rtol=0.0)


def test_a_layer_has_no_feed_forward_network():
    module = SYSTEM.build(SYSTEM.config(width=WIDTH))
    assert all(layer.feed is None for layer in module.layers)


def test_learned_vectors_start_as_published():
    torch.manual_seed(0)
    layer = PersistentAttention(SYSTEM.config(width=64, persistent=256))
    for vectors in layer.learned():
        used = vectors[vectors != 0]
        assert used.std().item() == pytest.approx(1.0, abs=0.05)
