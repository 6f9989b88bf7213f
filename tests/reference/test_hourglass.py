"""Hourglass against properties that only a correct one has (specs 19)."""

from itertools import pairwise

import pytest
import torch

from kt_forecast import zoo
from kt_forecast.audit.cost import training_cost

SYSTEM = zoo.load("hourglass")
STEPS = 47


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixer(**settings):
    module = SYSTEM.build(SYSTEM.config(**{"width": 16, **settings})).double().eval()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module


def stacked(layers, x):
    for layer in layers:
        x, _ = layer(x, x, None, None, None)
    return x


def as_published(module, x, *, shift=True):
    """Shift right, pad, group, run the valley, repeat each group, cut: the paper's order."""
    level, valley = module.levels
    s = level.stride
    x = stacked(level.before, x)
    rows, steps, width = x.shape
    front = s - 1 if shift else 0
    padded = torch.cat([x.new_zeros(rows, front, width), x, x.new_zeros(rows, s, width)], 1)
    groups = -(-steps // s)
    groups = padded[:, : groups * s].reshape(rows, groups, s, width)
    tokens = groups.mean(2) if level.down is None else level.down(groups.flatten(2))
    tokens = stacked(valley.before, tokens)
    long = (
        tokens.repeat_interleave(s, 1)
        if level.up is None
        else level.up(tokens).reshape(rows, -1, width)
    )
    return module.norm(stacked(level.after, x + long[:, :steps]))


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("way", [("mean", "repeat"), ("linear", "linear")])
def test_it_is_shift_shorten_valley_lengthen(stride, way):
    module, x = mixer(hierarchy=(stride,), shorten=way[0], lengthen=way[1]), noise(2, STEPS, 16)
    torch.testing.assert_close(module(x)[0], as_published(module, x), atol=1e-10, rtol=0.0)


def test_without_the_shift_the_future_is_seen():
    module, x = mixer(), noise(2, STEPS, 16)
    other = torch.cat([x[:, :20], noise(2, STEPS - 20, 16, seed=9)], 1)
    for shift, sees in ((True, False), (False, True)):
        gap = as_published(module, x, shift=shift) - as_published(module, other, shift=shift)
        assert (gap[:, :20].abs().max() > 1e-3) == sees


def test_a_stride_of_one_is_a_plain_stack():
    module, x = mixer(hierarchy=(1,), shorten="mean", lengthen="repeat"), noise(2, STEPS, 16)
    first = stacked(module.levels[0].before, x)
    middle = first + stacked(module.levels[1].before, first)
    plain = module.norm(stacked(module.levels[0].after, middle))
    torch.testing.assert_close(module(x)[0], plain, atol=1e-12, rtol=0.0)


def test_a_valley_of_nothing_leaves_the_layers_at_the_full_rate():
    module, x = mixer(), noise(2, STEPS, 16)
    level = module.levels[0]
    torch.nn.init.zeros_(level.up.weight)
    torch.nn.init.zeros_(level.up.bias)
    plain = module.norm(stacked(level.after, stacked(level.before, x)))
    torch.testing.assert_close(module(x)[0], plain, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("hierarchy", [(3,), (2, 2), (3, 2), (2, 5)])
def test_each_rate_has_the_steps_that_its_strides_leave(hierarchy):
    module, seen = mixer(hierarchy=hierarchy), []
    for level in module.levels:
        level.before[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    module(noise(1, STEPS, 16))
    assert seen[0] == STEPS
    for (long, short), stride in zip(pairwise(seen), hierarchy, strict=True):
        assert short == (long - 1) // stride + 1


@pytest.mark.parametrize("hierarchy", [(2, 2), (3, 2)])
def test_nested_rates_see_no_future_and_lose_no_step(hierarchy):
    module, x = mixer(hierarchy=hierarchy, before=0, after=0), noise(1, STEPS, 16)
    base = module(x)[0]
    for cut in range(1, STEPS):
        other = torch.cat([x[:, :cut], 30 * noise(1, STEPS - cut, 16, seed=cut)], 1)
        moved = module(other)[0]
        assert torch.equal(moved[:, :cut], base[:, :cut])
        assert not torch.equal(moved[:, cut], base[:, cut])


@pytest.mark.parametrize("hierarchy", [(3, 2), (2, 3)])
def test_rows_at_different_places_equal_one_pass(hierarchy):
    module, x = mixer(hierarchy=hierarchy), noise(3, STEPS, 16)
    whole, state = module(x)[0], module.init_state(3)
    done, pieces = [0, 0, 0], [[], [], []]
    draw = torch.Generator().manual_seed(0)
    while min(done) < STEPS:
        valid = torch.rand(3, 5, generator=draw) < 0.6
        given = 50 * noise(3, 5, 16, seed=sum(done))
        for row in range(3):
            for column in valid[row].nonzero().flatten().tolist():
                if done[row] == STEPS:
                    valid[row, column] = False
                    continue
                given[row, column] = x[row, done[row]]
                done[row] += 1
        y, state = module(given, state, valid=valid)
        for row in range(3):
            pieces[row].append(y[row, valid[row]])
    for row in range(3):
        torch.testing.assert_close(torch.cat(pieces[row]), whole[row], atol=1e-10, rtol=0.0)


def test_the_valley_costs_what_its_length_does():
    """Attention's share of the cost falls with the square of the stride, the rest with it."""
    x = torch.randn(1, 512, 16)

    def cost(stride):
        settings = {"before": 0, "after": 0, "shorten": "mean", "lengthen": "repeat"}
        module = SYSTEM.build(SYSTEM.config(width=16, hierarchy=(stride,), **settings))
        return training_cost(module, x)[0]

    assert cost(1) / 16 < cost(4) < cost(1) / 4
    assert cost(1) / 64 < cost(8) < cost(1) / 8


def test_a_stride_of_nothing_is_refused():
    for hierarchy in ((), (0,), (2, -1)):
        with pytest.raises(ValueError, match="hierarchy"):
            SYSTEM.config(hierarchy=hierarchy)
