"""Exact attention as a system against properties that only a correct one has (specs 1)."""

import pytest
import torch

from kt_forecast import zoo
from kt_forecast.nn.streams import Span
from kt_forecast.zoo.flash_attention import mixing

SYSTEM = zoo.load("flash_attention")
STEPS, WIDTH = 29, 16
PATTERNS = pytest.mark.parametrize("pattern", ["causal", "window", "dilated", "blocks"])


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(module):
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module.double().eval()


def config(**settings: object):
    small = {"width": WIDTH, "heads": 2, "window": 4, "dilation": 3, "layers": 2}
    return SYSTEM.config(**small | settings)


def mask(pattern, window=4, dilation=3):
    i, j = torch.arange(STEPS)[:, None], torch.arange(STEPS)
    block = i // window
    return (j <= i) & {
        "causal": j >= 0,
        "window": i - j < window,
        "dilated": ((i - j) % dilation == 0) & (i - j < window * dilation),
        "blocks": (j < window) | (j // window == block) | (j // window == block - 1),
    }[pattern]


@PATTERNS
def test_each_pattern_is_a_masked_softmax(pattern):
    layer = drawn(mixing(config(pattern=pattern)))
    x = noise(2, STEPS, WIDTH).requires_grad_()
    got, _ = layer(x, layer.init_state(2), Span.beginning(x))

    def heads(t):
        return t.unflatten(-1, (2, WIDTH // 2)).transpose(1, 2)

    place = torch.arange(STEPS)[None]
    k, v = (heads(t) for t in layer.key_value(x).chunk(2, -1))
    q, k = layer.rotary(heads(layer.query(x)), place), layer.rotary(k, place)
    logits = (q @ k.mT * (WIDTH // 2) ** -0.5).masked_fill(~mask(pattern), -torch.inf)
    wanted = layer.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(-2))
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0.0)
    weight, leaves = noise(*got.shape, seed=9), (x, layer.query.weight, layer.key_value.weight)
    slopes = (
        torch.autograd.grad((y * weight).sum(), leaves, retain_graph=True) for y in (got, wanted)
    )
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0.0)
        assert one.abs().max() > 0


def test_the_causal_pattern_is_gpt():
    module, x = drawn(SYSTEM.build(config())), noise(2, STEPS, WIDTH)
    gpt = zoo.load("gpt")
    other = gpt.build(gpt.config(width=WIDTH, heads=2, layers=2)).double().eval()
    with torch.no_grad():
        for to, own in zip(other.parameters(), module.parameters(), strict=True):
            to.copy_(own)
    torch.testing.assert_close(module(x)[0], other(x)[0], atol=1e-10, rtol=0.0)


@PATTERNS
@pytest.mark.parametrize("padded", [False, True])
def test_sequences_of_one_row_are_attended_alone_in_one_pass(pattern, padded):
    module = drawn(SYSTEM.build(config(pattern=pattern)))
    x = noise(2, STEPS, WIDTH)
    reset = torch.zeros(2, STEPS, dtype=torch.bool)
    reset[0, [7, 8, 20]] = True
    reset[1, 0] = True
    valid = torch.ones_like(reset)
    if padded:
        valid[0, 3:7] = valid[1, 25:] = valid[1, 2] = False
    got, _ = module(x, valid=valid if padded else None, reset=reset)
    state = module.init_state(2)
    wanted, _ = module(x, state, valid=valid, reset=reset)
    torch.testing.assert_close(got[valid], wanted[valid], atol=1e-10, rtol=0.0)


@pytest.mark.parametrize("pattern", ["causal", "window", "dilated"])
@pytest.mark.parametrize("kernel", ["exact", "blocks"])
def test_kernels_give_one_result(pattern, kernel):
    x = noise(2, STEPS, WIDTH)
    wanted = drawn(SYSTEM.build(config(pattern=pattern)))(x)[0]
    got = drawn(SYSTEM.build(config(pattern=pattern, kernel=kernel)))(x)[0]
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0.0)


@PATTERNS
def test_streams_equal_one_pass(pattern):
    module, x = drawn(SYSTEM.build(config(pattern=pattern))), noise(2, STEPS, WIDTH)
    state, pieces = module.init_state(2), []
    for part in x.split([1, 9, 2, 17], 1):
        y, state = module(part, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), module(x)[0], atol=1e-10, rtol=0.0)
