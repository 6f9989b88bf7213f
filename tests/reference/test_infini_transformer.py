"""Infini-attention against properties that only a correct one has (specs 3)."""

import math
from itertools import pairwise

import pytest
import torch

from kt_forecast import zoo
from kt_forecast.audit.cost import growth, training_cost
from kt_forecast.nn.attention import Rotary
from kt_forecast.nn.streams import Span
from kt_forecast.zoo.infini_transformer import (
    EPSILON,
    GATE_SPEED,
    InfiniAttention,
    delta_rule,
    linear_rule,
    positive,
)

SYSTEM = zoo.load("infini_transformer")
WIDTH, STEPS, SEGMENT = 16, 23, 5
FAR = 2_000_000
CLOSE = {"atol": 1e-12, "rtol": 0.0}
RULES = pytest.mark.parametrize("rule", ["linear", "delta"])


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(module):
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module.eval()


def config(**settings):
    return SYSTEM.config(**{"width": WIDTH, "heads": 2, "segment": SEGMENT, **settings})


def attention(gate=None, **settings):
    module = filled(InfiniAttention(config(**settings)).double())
    if gate is not None:
        torch.nn.init.constant_(module.gate, gate)
    return module


def parts(module, x):
    return (
        part.unflatten(-1, (module.heads, -1)).transpose(1, 2)
        for part in module.query_key_value(x).chunk(3, -1)
    )


def softmax_within(module, q, k, v):
    """Attend step by step within the segment of each step."""
    size, rotary = module.segment, Rotary(module.size)
    place = (torch.arange(q.shape[2]) % size)[None]
    q, k, found = rotary(q, place), rotary(k, place), []
    for t in range(q.shape[2]):
        own = slice(t // size * size, t + 1)
        weight = (q[:, :, t, None] @ k[:, :, own].transpose(-1, -2) / module.size**0.5).softmax(-1)
        found.append(weight @ v[:, :, own])
    return torch.cat(found, 2)


def remembered(module, q, k, v, rule):
    """Read a memory that takes in a segment once it is over, step by step."""
    q, k, size = positive(q), positive(k), module.segment
    rows, heads, steps, width = q.shape
    memory = torch.zeros(rows, heads, width, width, dtype=torch.float64)
    total, found = torch.zeros(rows, heads, width, dtype=torch.float64), []
    for t in range(steps):
        if t % size == 0 and t > 0:
            new, old = slice(t - size, t), memory
            taken = torch.zeros_like(v[:, :, new])
            if rule == "delta":
                taken = k[:, :, new] @ old / (k[:, :, new] @ total[..., None] + EPSILON)
            memory = old + k[:, :, new].transpose(-1, -2) @ (v[:, :, new] - taken)
            total = total + k[:, :, new].sum(2)
        now = q[:, :, t, None]
        found.append(now @ memory / (now @ total[..., None] + EPSILON))
    return torch.cat(found, 2)


@RULES
@pytest.mark.parametrize("segment", [1, 2, SEGMENT, STEPS, 64])
def test_it_is_what_the_paper_writes_down(rule, segment):
    module, x = attention(rule=rule, segment=segment), noise(2, STEPS, WIDTH)
    q, k, v = parts(module, x)
    share = (GATE_SPEED * module.gate).sigmoid()[:, None, None]
    long, local = remembered(module, q, k, v, rule), softmax_within(module, q, k, v)
    wanted = share * long + (1 - share) * local
    got, _ = module(x, module.init_state(2), Span.beginning(x))
    torch.testing.assert_close(got, module.out(wanted.transpose(1, 2).flatten(2)), **CLOSE)


def test_without_the_memory_it_is_attention_in_blocks():
    module, x = attention(gate=-100.0), noise(2, STEPS, WIDTH)
    wanted = softmax_within(module, *parts(module, x)).transpose(1, 2).flatten(2)
    got, _ = module(x, module.init_state(2), Span.beginning(x))
    torch.testing.assert_close(got, module.out(wanted), **CLOSE)


def test_the_memory_of_single_steps_is_strict_linear_attention():
    module, x = attention(gate=100.0, segment=1), noise(2, STEPS, WIDTH)
    q, k, v = parts(module, x)
    weight = (positive(q) @ positive(k).transpose(-1, -2)).tril(-1)
    wanted = weight @ v / (weight.sum(-1, keepdim=True) + EPSILON)
    got, _ = module(x, module.init_state(2), Span.beginning(x))
    torch.testing.assert_close(got, module.out(wanted.transpose(1, 2).flatten(2)), **CLOSE)


@pytest.mark.parametrize("rule", [linear_rule, delta_rule])
def test_a_single_pair_is_recalled_exactly(rule):
    k, v = positive(noise(1, 1, 1, 1, 8)), noise(1, 1, 1, 1, 8, seed=2)
    empty = torch.zeros(1, 1, 8, 8).double(), torch.zeros(1, 1, 8).double()
    memories, totals = rule(k, v, *empty)
    got = (k[:, :, 0] @ memories[:, :, -1]) / (k[:, :, 0] @ totals[:, :, -1, :, None])
    torch.testing.assert_close(got, v[:, :, 0], **CLOSE)


def test_writing_a_pair_again_leaves_the_memory_of_the_delta_rule_alone():
    k, v = positive(noise(1, 1, 1, 1, 8)), noise(1, 1, 1, 1, 8, seed=2)
    empty = torch.zeros(1, 1, 8, 8).double(), torch.zeros(1, 1, 8).double()
    twice = k.expand(-1, -1, 2, -1, -1), v.expand(-1, -1, 2, -1, -1)
    delta, _ = delta_rule(*twice, *empty)
    torch.testing.assert_close(delta[:, :, 2], delta[:, :, 1], atol=1e-5, rtol=0.0)
    linear, _ = linear_rule(*twice, *empty)
    torch.testing.assert_close(linear[:, :, 2], 2 * linear[:, :, 1], **CLOSE)


@RULES
def test_the_memory_holds_complete_segments_only(rule):
    module, x = attention(rule=rule), noise(2, STEPS, WIDTH)
    state, seen = module.init_state(2), []
    for t in range(STEPS):
        span = Span(torch.full((2,), t), torch.ones(2).long(), 1, t, t, whole=True)
        _, state = module(x[:, t : t + 1], state, span)
        seen.append(state)
    for t, (before, after) in enumerate(pairwise(seen), 1):
        closes = (t + 1) % SEGMENT == 0
        assert torch.equal(before.memory, after.memory) != closes
        assert bool(after.keys[:, :, (t + 1) % SEGMENT :].any()) is False
        assert closes or bool(after.keys[:, :, t % SEGMENT].all())


def test_a_step_reads_nothing_of_its_own_segment_from_the_memory():
    """With the local part off, all of a segment but its queries may change unseen."""
    module, x = attention(gate=100.0), noise(1, STEPS, WIDTH)
    base = module(x, module.init_state(1), Span.beginning(x))[0]
    other = x.clone()
    other[:, SEGMENT : SEGMENT + 2] += 1.0
    moved = (module(other, module.init_state(1), Span.beginning(x))[0] - base).abs().amax((0, 2))
    assert moved[SEGMENT + 2 : 2 * SEGMENT].max() == 0.0
    assert moved[2 * SEGMENT :].min() > 0.0


@RULES
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_positions_are_exact_two_million_steps_into_a_stream(rule, dtype, close):
    module = filled(SYSTEM.build(config(rule=rule)).double()).to(dtype)
    x = noise(2, 32, WIDTH).to(dtype)
    near, state = module(x, module.init_state(2))
    start = module.init_state(2)
    begun = type(state)(torch.full_like(state.position, FAR), start.layers)
    assert FAR % SEGMENT == 0
    torch.testing.assert_close(module(x, begun)[0], near, atol=close, rtol=0.0)
    state, pieces = begun, []
    for piece in x.split([1, 1, 20, 3, 7], 1):
        y, state = module(piece, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), near, atol=close, rtol=0.0)


def test_the_state_is_a_matrix_a_head_and_one_segment():
    module = SYSTEM.build(SYSTEM.config(width=32, heads=4, layers=3, segment=7))
    a_head = 8 * (8 + 1) + 7 * (8 + 8)
    assert module.init_state(5).numel() == 5 * (3 * 4 * a_head + 1)


def test_the_published_memory_has_the_published_size():
    state = InfiniAttention(SYSTEM.config(width=1024, heads=8)).init_state(1)
    assert 12 * (state.memory.numel() + state.total.numel()) == 1_585_152


@RULES
def test_cost_is_linear_from_a_thousand_steps(rule):
    module = SYSTEM.build(config(rule=rule, segment=32))
    measured = growth(module, WIDTH, streaming=True, lengths=(1024, 4096))
    assert measured.training_flops == pytest.approx(1.0, abs=0.02)
    assert measured.training_bytes == pytest.approx(1.0, abs=0.02)
    assert (measured.step_flops, measured.state_bytes) == (0.0, 0.0)


@pytest.mark.slow
@RULES
def test_cost_is_linear_up_to_sixty_four_thousand_steps(rule):
    module = SYSTEM.build(config(rule=rule, segment=64))
    costs = [training_cost(module, torch.randn(1, n, WIDTH)) for n in (1024, 8192, 65536)]
    for (flops, kept), (more_flops, more_kept) in pairwise(costs):
        assert math.log(more_flops / flops, 8) < 1.1
        assert math.log(more_kept / kept, 8) < 1.1


def test_features_are_positive():
    x = 5 * noise(100)
    assert (positive(x) > 0).all()
    torch.testing.assert_close(positive(x), torch.where(x > 0, x + 1, x.exp()), **CLOSE)
