"""Retention against properties that only a correct one has (specs 6)."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from kt_forecast import zoo
from kt_forecast.audit.cost import growth, training_cost
from kt_forecast.nn.decayed import decayed
from kt_forecast.nn.streams import Span
from kt_forecast.zoo.retnet import EPSILON, Retention, log_decays

SYSTEM = zoo.load("retnet")
WIDTH, STEPS = 16, 37
FAR = 2_000_000
CLOSE = {"atol": 1e-12, "rtol": 0.0}


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(module):
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module.eval()


def config(**settings):
    return SYSTEM.config(**{"width": WIDTH, "heads": 2, "longest": 64, **settings})


def retention(**settings):
    return filled(Retention(config(**settings)).double())


def turned(x, position):
    """Rotate by the published angles, and fade as xPos does, with complex numbers."""
    half = x.shape[-1] // 2
    rate = 10_000.0 ** -torch.linspace(0, 1, half, dtype=torch.float64)
    pairs = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones(()).double(), position * rate)
    return torch.cat([pairs.real, pairs.imag], -1)


def as_published(module, x, *, magnitudes=False):
    """Write the sum over all pairs of steps, with the published matrix of decays."""
    rows, steps, _ = x.shape
    half = module.size // 2
    zeta = ((torch.arange(half).double() / half + 0.4) / 1.4).repeat(2)
    split = lambda y: y.reshape(rows, steps, module.heads, -1)  # noqa: E731
    q, k, v = split(module.query(x)), split(module.key(x)), split(module.value(x))
    out = torch.zeros_like(v)
    for h in range(module.heads):
        gamma = float(module.log_decay[h].exp())
        for n in range(steps):
            for m in range(n + 1):
                fade = zeta ** ((n - m) / 512) if magnitudes else 1.0
                pair = turned(q[:, n, h], n) * fade * turned(k[:, m, h], m)
                out[:, n, h] += gamma ** (n - m) * pair.sum(-1, keepdim=True) * v[:, m, h]
    out = F.rms_norm(out * module.size**-0.5, out.shape[-1:], eps=EPSILON)
    return module.out(F.silu(module.gate(x)) * out.flatten(2))


@pytest.mark.parametrize("chunk", [1, 4, 8, 21, 64])
@pytest.mark.parametrize("magnitudes", [False, True])
def test_chunks_equal_the_sum_over_all_pairs(chunk, magnitudes):
    module, x = retention(chunk=chunk, magnitudes=magnitudes), noise(2, STEPS, WIDTH)
    got, _ = module(x, module.init_state(2), Span.beginning(x))
    torch.testing.assert_close(got, as_published(module, x, magnitudes=magnitudes), **CLOSE)


def by_steps(q, k, v, log_decay, state, fading):
    """Carry the matrix from step to step."""
    read = []
    for t in range(v.shape[2]):
        state = state * log_decay[:, :, t, None, None].exp() * fading[:, :, t, :, None].exp()
        state = state + k[:, :, t, :, None] * v[:, :, t, None]
        read.append((q[:, :, t, :, None] * state).sum(-2))
    return torch.stack(read, 2), state


@pytest.mark.parametrize("chunk", [1, 4, 8, 21])
def test_chunks_equal_the_recurrence_with_gradients(chunk):
    q, k, v = noise(2, 3, STEPS, 4), noise(2, 3, STEPS, 4, seed=2), noise(2, 3, STEPS, 5, seed=3)
    # Some decays are so strong that a difference of running sums would lose the others.
    log_decay = -(3 * noise(2, 3, STEPS, seed=4)).exp()
    inputs = (q, k, v, log_decay, noise(2, 3, 4, 5, seed=5), -0.01 * noise(2, 3, STEPS, 4).abs())
    inputs = tuple(x.requires_grad_() for x in inputs)
    *given, fading = inputs
    fast, slow = decayed(*given, fading=fading, chunk=chunk), by_steps(*inputs)
    weights = noise(2, 3, STEPS, 5, seed=6), noise(2, 3, 4, 5, seed=7)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    worth = [sum((y * w).sum() for y, w in zip(ys, weights, strict=True)) for ys in (fast, slow)]
    for a, b in zip(*(torch.autograd.grad(w, inputs) for w in worth), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


def test_single_precision_survives_strong_decay():
    q, k, v = (noise(1, 1, 64, 4, seed=i) for i in range(3))
    log_decay = -1e-3 * torch.ones(1, 1, 64, dtype=torch.float64)
    log_decay[..., 5] = -1e6
    inputs = q, k, v, log_decay, noise(1, 1, 4, 4)
    exact, _ = decayed(*inputs)
    single, _ = decayed(*(x.float() for x in inputs))
    torch.testing.assert_close(single.double(), exact, atol=1e-4, rtol=0.0)


def test_without_decay_it_is_causal_linear_attention():
    q, k, v = noise(2, 2, STEPS, 4), noise(2, 2, STEPS, 4, seed=2), noise(2, 2, STEPS, 6, seed=3)
    state = torch.zeros(2, 2, 4, 6, dtype=torch.float64)
    got, _ = decayed(q, k, v, torch.zeros(1, 1, STEPS, dtype=torch.float64), state, chunk=8)
    sums = (k[..., None] * v[..., None, :]).cumsum(2)
    torch.testing.assert_close(got, (q[..., None, :] @ sums)[..., 0, :], **CLOSE)


def test_a_head_that_forgets_at_once_reads_its_own_step():
    q, k, v = noise(2, 2, STEPS, 4), noise(2, 2, STEPS, 4, seed=2), noise(2, 2, STEPS, 6, seed=3)
    gone = torch.full((1, 1, STEPS), -1e4, dtype=torch.float64)
    got, _ = decayed(q, k, v, gone, noise(2, 2, 4, 6), chunk=8)
    torch.testing.assert_close(got, (q * k).sum(-1, keepdim=True) * v, **CLOSE)


def test_the_default_rates_are_the_published_ones():
    for heads in (4, 8):
        settings = SYSTEM.config(heads=heads, longest=32 * 2 ** (heads - 1))
        published = [math.log(1 - 2.0 ** (-5 - h)) for h in range(heads)]
        assert log_decays(settings).tolist() == pytest.approx(published, rel=1e-12)
    assert SYSTEM.config().longest == 32 * 2 ** (SYSTEM.config().heads - 1)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
@pytest.mark.parametrize("magnitudes", [False, True])
def test_only_distance_counts_two_million_steps_into_a_stream(dtype, close, magnitudes):
    module = filled(SYSTEM.build(config(magnitudes=magnitudes)).double()).to(dtype)
    x = noise(2, 150, WIDTH).to(dtype)
    near, state = module(x, module.init_state(2))
    begun = type(state)(torch.full_like(state.position, FAR), module.init_state(2).layers)
    far, state = module(x, begun)
    torch.testing.assert_close(far, near, atol=close, rtol=0.0)
    assert state.position.tolist() == [FAR + 150] * 2
    state, steps = begun, []
    for step in x[:, :20].split(1, 1):
        y, state = module(step, state)
        steps.append(y)
    torch.testing.assert_close(torch.cat(steps, 1), far[:, :20], atol=close, rtol=0.0)


def test_single_precision_streams_as_it_passes():
    module = filled(SYSTEM.build(config()).double()).float()
    x = noise(2, 150, WIDTH).float()
    state, pieces = module.init_state(2), []
    for piece in x.split([1, 1, 70, 3, 75], 1):
        y, state = module(piece, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), module(x)[0], atol=1e-4, rtol=0.0)


def test_the_state_is_a_matrix_a_head():
    module = SYSTEM.build(SYSTEM.config(width=32, heads=4, layers=3))
    assert module.init_state(5).numel() == 5 * (3 * 4 * (32 // 4) * (2 * 32 // 4) + 1)


def test_cost_is_linear_from_a_thousand_steps():
    module = SYSTEM.build(config())
    measured = growth(module, WIDTH, streaming=True, lengths=(1024, 8192))
    assert measured.training_flops == pytest.approx(1.0, abs=0.02)
    assert measured.training_bytes == pytest.approx(1.0, abs=0.02)
    assert (measured.step_flops, measured.state_bytes) == (0.0, 0.0)


@pytest.mark.slow
def test_cost_is_linear_up_to_sixty_four_thousand_steps():
    module = SYSTEM.build(config())
    costs = [training_cost(module, torch.randn(1, n, WIDTH)) for n in (1024, 8192, 65536)]
    for (flops, kept), (more_flops, more_kept) in pairwise(costs):
        assert math.log(more_flops / flops, 8) < 1.1
        assert math.log(more_kept / kept, 8) < 1.1


def test_memories_out_of_order_are_refused():
    with pytest.raises(ValueError, match="shortest"):
        SYSTEM.config(shortest=64, longest=32)
