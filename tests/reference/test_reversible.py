"""Reversible layers against the same layers whose activations are kept."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from kt_forecast.audit.cost import training_cost
from kt_forecast.nn.reversible import ReversibleLayer, ReversibleStack
from kt_forecast.nn.stack import Stack

WIDTH, STEPS = 8, 21


class Signs(nn.Module):
    """Adds up the steps so far, each with the sign of its first number: a decision."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(WIDTH, WIDTH)
        self.told = []

    def init_state(self, batch):
        return self.map.weight.new_zeros(batch, WIDTH)

    def forward(self, x, state, span, decided=None):
        self.told.append(decided is not None)
        if decided is None:
            decided = (x.detach()[..., 0] > 0).to(torch.uint8)
        sums = self.map(x) * (2.0 * decided[..., None] - 1)
        sums = state[:, None] + (sums * span.real[..., None]).cumsum(1)
        return sums.tanh(), sums[:, -1], decided


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stack(layers=3, *, dropout=0.0, at_once=4):
    torch.manual_seed(2)
    made = [
        ReversibleLayer(Signs(), WIDTH, inner=16, dropout=dropout, at_once=at_once)
        for _ in range(layers)
    ]
    return ReversibleStack(made, WIDTH).double().train()


def slopes(run, module, x, valid=None):
    torch.manual_seed(5)
    x = x.clone().requires_grad_()
    y = run(x, valid=valid)[0]
    if valid is not None:
        y = y[valid]
    return y, torch.autograd.grad((y * noise(*y.shape, seed=3)).sum(), (x, *module.parameters()))


def plain(module):
    return lambda x, valid: Stack.forward(module, x, valid=valid)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_outputs_and_slopes_are_those_of_kept_activations(dropout, padded):
    module, x = stack(dropout=dropout), noise(3, STEPS, WIDTH)
    valid = torch.arange(STEPS) < torch.tensor([STEPS, 3, 11])[:, None] if padded else None
    y, found = slopes(module, module, x, valid)
    assert [layer.mixing.told for layer in module.layers] == [[False, True]] * 3
    wanted, kept = slopes(plain(module), module, x, valid)
    torch.testing.assert_close(y, wanted, atol=0.0, rtol=0.0)
    for a, b in zip(found, kept, strict=True):
        assert b.abs().max() > 0.0
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0.0)


def test_slopes_in_single_precision():
    module, x = stack().float(), noise(3, STEPS, WIDTH).float()
    module_slopes, kept = (slopes(run, module, x)[1] for run in (module, plain(module)))
    for a, b in zip(module_slopes, kept, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


def test_half_precision_goes_back_in_half_precision():
    module, x = stack().float(), noise(3, STEPS, WIDTH).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)[0]
    y.float().sum().backward()
    found = [p.grad for p in module.parameters()]
    module.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = plain(module)(x, None)[0]
    y.float().sum().backward()
    for a, b in zip(found, (p.grad for p in module.parameters()), strict=True):
        torch.testing.assert_close(a, b, atol=0.02 * float(b.abs().max()), rtol=0.0)


def test_what_is_kept_does_not_grow_with_the_layers():
    x = noise(1, 256, WIDTH)
    kept = {layers: training_cost(stack(layers), x)[1] for layers in (2, 4, 8)}
    decisions = 256
    assert kept[4] - kept[2] == 2 * decisions
    assert kept[8] - kept[4] == 4 * decisions
    plainly = {layers: training_cost(stack(layers).eval(), x)[1] for layers in (2, 4)}
    assert plainly[4] - plainly[2] > 100 * decisions


@pytest.mark.parametrize("at_once", [1, 5, STEPS, 100])
def test_slices_of_steps_are_fed_as_the_whole(at_once):
    x = noise(2, STEPS, WIDTH)
    whole, sliced = stack(at_once=STEPS), stack(at_once=at_once)
    sliced.load_state_dict(whole.state_dict())
    wanted, found = slopes(whole, whole, x), slopes(sliced, sliced, x)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0.0)


def test_frozen_parameters_stay_frozen():
    module, x = stack(), noise(2, STEPS, WIDTH)
    module.layers[1].feed.requires_grad_(requires_grad=False)
    module(x)[0].sum().backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is None) == name.startswith("layers.1.feed.")


def test_random_draws_outside_go_on_as_without_the_layers():
    module, x = stack(dropout=0.5), noise(2, STEPS, WIDTH)
    drawn = []
    for context in (nullcontext(), torch.no_grad()):
        torch.manual_seed(9)
        with context:
            y = module(x)[0]
        if y.requires_grad:
            y.sum().backward()
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
