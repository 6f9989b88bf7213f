"""Memory-compressed attention against properties that only a correct one has (specs 9)."""

import pytest
import torch
import torch.nn.functional as F
from reference.sparse_cases import drawn, noise, same_with_gradients, slopes

from kt_forecast import zoo
from kt_forecast.audit.cost import training_cost
from kt_forecast.nn.attend import attend_cached
from kt_forecast.nn.streams import Span
from kt_forecast.zoo.memory_compressed import CompressedAttention

SYSTEM = zoo.load("memory_compressed")
WIDTH, STEPS = 16, 23
CLOSE = {"atol": 1e-12, "rtol": 0.0}
FACTORS = pytest.mark.parametrize("factor", [1, 2, 3, 5])


def config(**settings):
    return SYSTEM.config(**{"width": WIDTH, "heads": 2, "window": 5, **settings})


def attention(**settings):
    return drawn(CompressedAttention(config(**settings)))


def read(module, x):
    return module(x, module.init_state(len(x)), Span.beginning(x))[0]


def staircase(module, x):
    """Write out all compressed keys, by a strided convolution, and the mask of the paper's code."""
    steps, factor = x.shape[1], module.factor
    both = module.key_value(x)
    whole = steps // factor * factor

    def convolved(part, by):
        weight = by.weight.unflatten(1, (factor, -1)).transpose(1, 2)
        less = F.conv1d(part[:, :whole].mT, weight, by.bias, stride=factor).mT
        return torch.cat([part[:, :1], less], 1)

    maps = module.compress_key, module.compress_value
    key, value = (convolved(p, by) for p, by in zip(both.chunk(2, -1), maps, strict=True))
    number = torch.arange(key.shape[1])
    key = module.rotary(module.split(key), number[None] * factor)
    query = module.rotary(module.split(module.query(x)), torch.arange(steps)[None])
    visible = number * factor <= torch.arange(steps)[:, None]
    value = module.split(value)
    return module.merged(F.scaled_dot_product_attention(query, key, value, attn_mask=visible))


@FACTORS
def test_phases_equal_the_staircase_of_a_strided_convolution_with_gradients(factor):
    module = attention(factor=factor)
    same_with_gradients(
        lambda x, *_: read(module, x),
        lambda x, *_: staircase(module, x),
        (noise(2, STEPS, WIDTH).requires_grad_(), *module.parameters()),
        tolerance=1e-11,
    )


def test_a_factor_of_one_reads_every_step_before_and_the_first_once_more():
    module, x = attention(factor=1), noise(2, STEPS, WIDTH)
    with torch.no_grad():
        for by in (module.compress_key, module.compress_value):
            by.weight.copy_(torch.eye(WIDTH))
            by.bias.zero_()
    key, value = (module.split(part) for part in module.key_value(x).chunk(2, -1))
    place = torch.arange(STEPS)[None]
    query = module.rotary(module.split(module.query(x)), place)
    found = []
    for t in range(STEPS):
        seen = [0, *range(t)]
        near = module.rotary(key[:, :, seen], torch.arange(t + 1)[None])
        found.append(F.scaled_dot_product_attention(query[:, :, t, None], near, value[:, :, seen]))
    torch.testing.assert_close(read(module, x), module.merged(torch.cat(found, 2)), **CLOSE)


@FACTORS
def test_only_complete_blocks_are_read(factor):
    module = attention(factor=factor)
    reads = slopes(lambda x: (read(module, x), None), noise(1, STEPS, WIDTH).requires_grad_()) > 0
    step = torch.arange(STEPS)
    complete = (step // factor + 1) * factor <= step[:, None]
    own = torch.eye(STEPS, dtype=torch.bool)
    # A query stands for its own step, and the first step has a key of its own.
    assert torch.equal(reads | own, complete | own | (step == 0))


def test_a_stack_reads_every_step_up_to_itself():
    module = drawn(SYSTEM.build(config()))
    reads = slopes(module, noise(1, STEPS, WIDTH).requires_grad_()) > 0
    assert torch.equal(reads, torch.ones(STEPS, STEPS, dtype=torch.bool).tril())


@FACTORS
def test_rows_at_different_places_equal_one_pass(factor):
    module, x = drawn(SYSTEM.build(config(factor=factor))), noise(3, STEPS, WIDTH)
    state, done, pieces = module.init_state(3), [0] * 3, [[] for _ in range(3)]
    for turn in range(40):
        valid = torch.rand(3, 5, generator=torch.Generator().manual_seed(turn)) < 0.6
        given = 50 * noise(3, 5, WIDTH, seed=turn)
        for row, column in valid.nonzero().tolist():
            valid[row, column] = done[row] < STEPS
            if done[row] < STEPS:
                given[row, column] = x[row, done[row]]
                done[row] += 1
        y, state = module(given, state, valid=valid)
        for row in range(3):
            pieces[row].append(y[row, valid[row]])
    assert done == [STEPS] * 3
    got = torch.stack([torch.cat(piece) for piece in pieces])
    torch.testing.assert_close(got, module(x)[0], atol=1e-10, rtol=0.0)


def test_the_state_is_a_third_of_a_cache_and_three_steps():
    module = attention()
    x = noise(2, 31, WIDTH)
    _, state = module(x, module.init_state(2), Span.beginning(x))
    assert state.kept.shape == (2, 11, 2 * WIDTH)
    assert state.open.shape == (2, 3, 2 * WIDTH)


def test_attention_costs_a_factor_less_than_full_attention():
    x = torch.randn(1, 4096, WIDTH)
    few, many = (
        training_cost(CompressedAttentionAlone(config(factor=factor)), x)[0] for factor in (4, 8)
    )
    assert few / many == pytest.approx(2.0, abs=0.15)


class CompressedAttentionAlone(torch.nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.attention = CompressedAttention(settings)

    def forward(self, x):
        return self.attention(x, self.attention.init_state(len(x)), Span.beginning(x))


def test_the_general_way_is_the_one_of_a_cache():
    module, x = attention(), noise(2, STEPS, WIDTH)
    span = Span.beginning(x)
    query = module.asked(x, span)
    _, state = module(x, module.init_state(2), span)
    y = attend_cached(query, *module.halves(state.kept), span.position[:1] // 3)
    torch.testing.assert_close(module.merged(y), read(module, x), **CLOSE)
