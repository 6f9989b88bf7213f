"""Selective state spaces against properties that only correct ones have (specs 7)."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from kt_forecast import zoo
from kt_forecast.audit.cost import growth, training_cost
from kt_forecast.nn.convolution import CausalConvolution
from kt_forecast.nn.decayed import decayed
from kt_forecast.nn.scan import by_doubling, one_by_one, selective_scan
from kt_forecast.nn.streams import Span
from kt_forecast.zoo.mamba import LENGTHS, Mamba1, Mamba2, first_lengths

SYSTEM = zoo.load("mamba")
WIDTH, STEPS = 16, 43
CLOSE = {"atol": 1e-12, "rtol": 0.0}
FORMS = pytest.mark.parametrize("form", ["mamba1", "mamba2"])


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(module):
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module.eval()


def config(**settings):
    return SYSTEM.config(**{"width": WIDTH, "state": 4, **settings})


def inputs(steps=STEPS, channels=6, state=4):
    u, length = noise(2, steps, channels), F.softplus(noise(2, steps, channels, seed=2))
    rate = -noise(channels, state, seed=3).exp()
    write, read = noise(2, steps, state, seed=4), noise(2, steps, state, seed=5)
    return u, length, rate, write, read, noise(2, channels, state, seed=6)


def by_steps(u, length, rate, write, read, h, *, exact=False):
    """Carry the state from step to step."""
    found = []
    for t in range(u.shape[1]):
        lasts = length[:, t, :, None] * rate
        weight = (lasts.exp() - 1) / rate if exact else length[:, t, :, None]
        h = lasts.exp() * h + weight * write[:, t, None] * u[:, t, :, None]
        found.append((h * read[:, t, None]).sum(-1))
    return torch.stack(found, 1), h


@pytest.mark.parametrize("chunk", [1, 8, 16, 64])
@pytest.mark.parametrize("exact", [False, True])
def test_chunks_equal_the_recurrence_with_gradients(chunk, exact):
    given = tuple(x.requires_grad_() for x in inputs())
    fast = selective_scan(*given, exact=exact, chunk=chunk)
    slow = by_steps(*given, exact=exact)
    weights = noise(2, STEPS, 6, seed=7), noise(2, 6, 4, seed=8)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    worth = [sum((y * w).sum() for y, w in zip(ys, weights, strict=True)) for ys in (fast, slow)]
    for a, b in zip(*(torch.autograd.grad(w, given) for w in worth), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("steps", [1, 2, 7, 64])
def test_both_orders_of_a_scan_agree(steps):
    factor, term, start = noise(2, steps, 3, 4).sigmoid(), noise(2, steps, 3, 4), noise(2, 3, 4)
    kept = factor.clone(), term.clone()
    ends = one_by_one(factor, term, start), by_doubling(factor, term, start)
    torch.testing.assert_close(*ends, **CLOSE)
    assert torch.equal(factor, kept[0])
    assert torch.equal(term, kept[1])


def test_single_precision_equals_double():
    given = inputs()
    single, _ = selective_scan(*(x.float() for x in given))
    torch.testing.assert_close(single.double(), selective_scan(*given)[0], atol=1e-4, rtol=0.0)


def test_a_state_that_decays_at_once_has_no_memory():
    u, length, _, write, read, start = inputs()
    length = length + 1.0
    y, _ = selective_scan(u, length, torch.full((6, 4), -1e4).double(), write, read, start)
    own = length * u * (read * write).sum(-1, keepdim=True)
    torch.testing.assert_close(y, own, **CLOSE)


def test_steps_that_are_all_alike_make_a_convolution():
    u, length, rate, write, read, start = inputs()
    alike = [x[:1, :1].expand_as(x) for x in (length, write, read)]
    y, _ = selective_scan(u, alike[0], rate, *alike[1:], torch.zeros_like(start))
    ages = torch.arange(STEPS, dtype=torch.float64)[:, None, None]
    factor = (length[0, 0, :, None] * rate).exp()
    kernel = (factor**ages * write[0, 0] * read[0, 0]).sum(-1) * length[0, 0]
    padded = F.pad(u.transpose(1, 2), (STEPS - 1, 0))
    wanted = F.conv1d(padded, kernel.flip(0).T[:, None], groups=6).transpose(1, 2)
    torch.testing.assert_close(y, wanted, **CLOSE)


def test_equal_rates_within_a_head_make_it_the_dual():
    heads, size = 2, 3
    u, length, _, write, read, start = inputs(channels=heads * size)
    length = length[..., :heads].repeat_interleave(size, -1)
    rate = -noise(heads, seed=3).exp()
    y, last = selective_scan(
        u, length, rate.repeat_interleave(size)[:, None].expand(-1, 4), write, read, start
    )
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    of_head = length[..., ::size].transpose(1, 2)
    dual, matrix = decayed(
        read[:, None],
        write[:, None],
        split(length * u),
        of_head * rate[:, None],
        start.unflatten(1, (heads, size)).transpose(2, 3),
        chunk=8,
    )
    torch.testing.assert_close(dual, split(y), **CLOSE)
    torch.testing.assert_close(matrix, last.unflatten(1, (heads, size)).transpose(2, 3), **CLOSE)


def convolved(module, x):
    """Let torch's own convolution do it, cut off where it would look ahead."""
    weight, kernel = module.weight, len(module.weight)
    y = F.conv1d(
        x.transpose(1, 2), weight.T[:, None], module.bias, padding=kernel - 1, groups=x.shape[2]
    )
    return y[..., : x.shape[1]].transpose(1, 2)


def test_the_convolution_is_torchs_own_cut_off_at_each_step():
    module, x = filled(CausalConvolution(6, 4).double()), noise(2, STEPS, 6)
    torch.testing.assert_close(
        module(x, module.init_state(2), Span.beginning(x))[0], convolved(module, x), **CLOSE
    )


def test_the_first_form_is_the_published_block():
    block, x = filled(Mamba1(config()).double()), noise(2, STEPS, WIDTH)
    with torch.no_grad():
        y, _ = block(x, block.init_state(2), Span.beginning(x))
        u, gate = block.enter(x).chunk(2, -1)
        u = F.silu(convolved(block.convolution, u))
        low, write, read = block.select(u).split([1, 4, 4], -1)
        length = F.softplus(block.length(low))
        rate, start = -block.log_rate.exp().reshape(-1, 4), torch.zeros(2, 32, 4).double()
        wanted = by_steps(u, length, rate, write, read, start)[0] + block.skip * u
        torch.testing.assert_close(y, block.out(wanted * F.silu(gate)), **CLOSE)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_second_form_is_the_published_block(groups):
    block = filled(Mamba2(config(form="mamba2", groups=groups, chunk=8)).double())
    x, heads, shared = noise(2, STEPS, WIDTH), 4, 4 * groups
    with torch.no_grad():
        y, _ = block(x, block.init_state(2), Span.beginning(x))
        gate, mixed, length = block.enter(x).split([32, 32 + 2 * shared, heads], -1)
        u, write, read = F.silu(convolved(block.convolution, mixed)).split([32, shared, shared], -1)
        length = F.softplus(length + block.length)
        found = []
        for h in range(heads):
            own = slice(8 * h, 8 * h + 8)
            group = h * groups // heads
            its = slice(4 * group, 4 * group + 4)
            rate = -block.log_rate[h].exp().expand(8, 4)
            lasts, start = length[..., h, None].expand(-1, -1, 8), torch.zeros(2, 8, 4).double()
            state, _ = by_steps(u[..., own], lasts, rate, write[..., its], read[..., its], start)
            found.append(state + block.skip[h] * u[..., own])
        wanted = F.rms_norm(torch.cat(found, -1) * F.silu(gate), (32,), block.norm.weight, 1e-5)
        torch.testing.assert_close(y, block.out(wanted), **CLOSE)


@FORMS
def test_single_precision_streams_as_it_passes(form):
    module, x = filled(SYSTEM.build(config(form=form))), noise(2, 150, WIDTH).float()
    state, pieces = module.init_state(2), []
    for piece in x.split([1, 1, 70, 3, 75], 1):
        y, state = module(piece, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), module(x)[0], atol=1e-4, rtol=0.0)


def test_first_lengths_are_spread_as_published():
    lengths = F.softplus(first_lengths(500))
    assert LENGTHS[0] * 0.99 < lengths.min() < 2 * LENGTHS[0]
    assert LENGTHS[1] / 2 < lengths.max() < LENGTHS[1] * 1.01


@pytest.mark.parametrize(("form", "entered"), [("mamba1", 32), ("mamba2", 32 + 2 * 4)])
def test_the_state_is_as_large_as_promised(form, entered):
    module = SYSTEM.build(config(form=form, layers=3))
    assert module.init_state(5).numel() == 5 * (3 * (32 * 4 + 3 * entered) + 1)


@FORMS
def test_cost_is_linear_from_a_thousand_steps(form):
    module = SYSTEM.build(config(form=form))
    measured = growth(module, WIDTH, streaming=True, lengths=(1024, 2048))
    assert measured.training_flops == pytest.approx(1.0, abs=0.02)
    assert measured.training_bytes == pytest.approx(1.0, abs=0.02)
    assert (measured.step_flops, measured.state_bytes) == (0.0, 0.0)


def test_the_states_of_all_steps_are_never_kept():
    """What one more number of state costs is what it writes and reads, and states in between."""
    x, chunk = torch.randn(1, 2048, WIDTH), 64
    kept = [
        training_cost(SYSTEM.build(config(state=n, layers=1, chunk=chunk)), x)[1] for n in (8, 72)
    ]
    channels = 2 * WIDTH
    assert kept[1] - kept[0] < 64 * 2048 * channels * 4 / 2


@pytest.mark.slow
@FORMS
def test_cost_is_linear_up_to_sixty_four_thousand_steps(form):
    module = SYSTEM.build(config(form=form))
    costs = [training_cost(module, torch.randn(1, n, WIDTH)) for n in (1024, 8192, 65536)]
    for (flops, kept), (more_flops, more_kept) in pairwise(costs):
        assert math.log(more_flops / flops, 8) < 1.1
        assert math.log(more_kept / kept, 8) < 1.1


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="heads must divide"):
        SYSTEM.config(form="mamba2", heads=3)
    with pytest.raises(ValueError, match="groups must divide"):
        SYSTEM.config(form="mamba2", groups=3)
