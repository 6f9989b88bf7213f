"""The one-layer GPT against properties that only a correct one has (specs: GPT identities)."""

import math

import pytest
import torch
import torch.nn.functional as F

from kt_forecast import zoo
from kt_forecast.nn.attention import QUERY_CHUNK, CausalAttention, Rotary


def attention(**options):
    torch.manual_seed(0)
    module = CausalAttention(16, 2, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def by_hand(module, x, *, window=None):
    """Attend step by step with loops and plain softmax."""
    rows, steps, width = x.shape
    size = width // module.heads
    q = module.query(x).reshape(rows, steps, module.heads, size)
    k, v = module.key_value(x).chunk(2, -1)
    k, v = k.reshape(q.shape), v.reshape(q.shape)
    out = torch.zeros_like(q)
    for h in range(module.heads):
        for t in range(steps):
            first = 0 if window is None else max(0, t - window + 1)
            logits = []
            for s in range(first, t + 1):
                a, b = q[:, t, h], k[:, s, h]
                if module.rotary is not None:
                    a, b = turned(a, t), turned(b, s)
                logit = (a * b).sum(-1) / size**0.5
                if module.log_slope is not None:
                    logit = logit - module.log_slope[h].exp() * math.log(t - s + 1)
                logits.append(logit)
            weight = F.softmax(torch.stack(logits, 1), 1)
            out[:, t, h] = (weight[..., None] * v[:, first : t + 1, h]).sum(1)
    return module.out(out.flatten(-2))


def turned(x, position):
    size = x.shape[-1]
    rate = 10_000.0 ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    pairs = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(rate), position * rate)
    return torch.cat([pairs.real, pairs.imag], -1)


@pytest.mark.parametrize(
    "options", [{}, {"forgetting": True}, {"window": 3}, {"forgetting": True, "window": 4}]
)
def test_attention_equals_its_definition_with_gradients(options):
    module = attention(**options)
    x = torch.randn(2, 9, 16, dtype=torch.float64, requires_grad=True)
    fast, slow = module(x)[0], by_hand(module, x, window=options.get("window"))
    torch.testing.assert_close(fast, slow, atol=1e-12, rtol=0)
    weight = torch.randn_like(fast)
    wanted = torch.autograd.grad((slow * weight).sum(), [x, *module.parameters()])
    got = torch.autograd.grad((fast * weight).sum(), [x, *module.parameters()])
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


@pytest.mark.parametrize("options", [{"forgetting": True}, {"window": 100}])
def test_chunks_of_queries_change_nothing(options, monkeypatch):
    module = attention(**options)
    x = torch.randn(1, 70, 16, dtype=torch.float64, requires_grad=True)
    assert QUERY_CHUNK > 70
    whole = module(x)[0]
    wanted = torch.autograd.grad(whole.sin().sum(), [x, *module.parameters()])
    monkeypatch.setattr("kt_forecast.nn.attention.QUERY_CHUNK", 16)
    chunked = module(x)[0]
    got = torch.autograd.grad(chunked.sin().sum(), [x, *module.parameters()])
    torch.testing.assert_close(chunked, whole, atol=1e-12, rtol=0)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


def test_rotary_logits_depend_on_distance_only_at_two_million_steps():
    rotary = Rotary(8)
    q, k = torch.randn(2, 1, 1, 1, 8)
    near = rotary(q, torch.tensor([[12]])) @ rotary(k, torch.tensor([[5]])).mT
    far = rotary(q, torch.tensor([[2_000_012]])) @ rotary(k, torch.tensor([[2_000_005]])).mT
    torch.testing.assert_close(near, far, atol=2e-6, rtol=0)


def gpt(**changes):
    system = zoo.load("gpt")
    torch.manual_seed(0)
    module = system.build(system.config(width=16, heads=2, **changes)).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def test_one_layer_read_at_its_last_step_is_its_bidirectional_twin(monkeypatch):
    module = gpt()
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    causal = module(x)[0]
    plain = F.scaled_dot_product_attention

    def bidirectional(q, k, v, **options):
        return plain(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", bidirectional)
    for t in range(1, 8):
        torch.testing.assert_close(module(x[:, :t])[0][:, -1], causal[:, t - 1])


def test_without_values_every_step_stands_alone():
    module = gpt()
    with torch.no_grad():
        module.layers[0].attention.key_value.weight[16:] = 0.0
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    alone = torch.cat([module(x[:, t : t + 1])[0] for t in range(6)], 1)
    torch.testing.assert_close(module(x)[0], alone)


def test_with_equal_logits_attention_is_a_running_mean():
    module = attention()
    with torch.no_grad():
        module.query.weight.zero_()
        module.query.bias.zero_()
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    values = module.key_value(x)[..., 16:]
    mean = values.cumsum(1) / torch.arange(1, 7)[:, None]
    torch.testing.assert_close(module(x)[0], module.out(mean))


def test_queries_read_the_steps_and_are_not_read():
    for layers in (1, 2):
        module = gpt(layers=layers)
        x, query = torch.randn(2, 1, 6, 16, dtype=torch.float64)
        base = module(x, query=query)[0]
        changed = query.clone()
        changed[:, 2] += torch.randn(16)
        moved = (module(x, query=changed)[0] - base).abs().amax(-1)[0]
        assert moved[2] > 0
        assert moved.sum() == moved[2]


def test_a_window_bounds_what_is_read_and_what_is_kept():
    module = attention(window=3)
    x = torch.randn(1, 40, 16, dtype=torch.float64)
    y, state = module(x, module.init_state(1))
    assert state.keys.shape[2] == 2
    changed = x.clone()
    changed[:, 10] += 1
    moved = (module(changed)[0] - y).abs().amax(-1)[0].nonzero().flatten().tolist()
    assert moved == [10, 11, 12]
