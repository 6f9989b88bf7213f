"""What a system adds to its task's loss: read by both tasks, in training, at real steps only."""

from dataclasses import replace

import pytest
import torch
from contract.forecasters import forecaster, shape, windows
from contract.systems import generic, interactions, tracer

from kt_forecast.nn.system import Auxiliary, auxiliary_loss


class Adds(torch.nn.Module):
    """A mixer that adds to each step's loss the first number of the step."""

    def __init__(self, mixer):
        super().__init__()
        self.mixer, self.auxiliary = mixer, None

    def forward(self, x, state=None, **how):
        if self.training:
            self.auxiliary = x[..., 0]
        return self.mixer(x, state, **how)


def loss(model, batch):
    torch.manual_seed(5)
    return model.loss(batch)


def test_padding_adds_nothing_and_nothing_is_read_twice():
    mixer = Adds(torch.nn.Identity())
    assert isinstance(mixer, Auxiliary)
    assert auxiliary_loss(mixer, None) is None
    assert auxiliary_loss(torch.nn.Identity(), None) is None
    mixer.auxiliary = torch.tensor([[1.0, 2.0, 3.0, float("nan")], [5.0, 6.0, 7.0, 8.0]])
    real = torch.tensor([[True, False], [False, True]])
    assert auxiliary_loss(mixer, real) == (1.0 + 2.0 + 7.0 + 8.0) / 4
    assert auxiliary_loss(mixer, real) is None


@pytest.mark.parametrize("scheme", ["shifted", "alternating"])
def test_tracing_adds_the_mean_over_real_steps(scheme):
    batch = interactions(3, 7)
    real = batch.real.clone()
    real[0, 3:] = False
    batch = replace(batch, real=real)
    model = tracer("gpt", scheme)
    quiet = loss(model.eval(), batch)[0]
    wanted = loss(model.train(), batch)[0]
    model.mixer = seen = Adds(model.mixer)
    assert loss(model.eval(), batch)[0] == quiet
    found, count = loss(model.train(), batch)
    assert seen.auxiliary is None
    torch.manual_seed(5)
    model(batch)
    twice = real.repeat_interleave(seen.auxiliary.shape[1] // 7, 1)
    torch.testing.assert_close(found - wanted, count * seen.auxiliary[twice].mean())


@pytest.mark.parametrize("gaps", [False, True])
def test_forecasting_adds_the_mean_over_patches_that_have_begun(gaps):
    model = generic(forecaster("gpt", {"dropout": 0.0}, shape(gaps=gaps)))
    batch = windows(2)
    if gaps:
        real = torch.ones_like(batch.values, dtype=torch.bool)
        real[0, :, :20] = False
        batch = replace(batch, real=real)
    wanted, count = model.train().loss(batch)
    model.network.mixer = seen = Adds(model.network.mixer)
    assert model.eval().loss(batch)[0] == wanted
    found, _ = model.train().loss(batch)
    assert seen.auxiliary is None
    model(batch.window)
    begun = torch.ones_like(seen.auxiliary, dtype=torch.bool)
    if gaps:
        begun[0, :3] = False
    torch.testing.assert_close(found - wanted, count * seen.auxiliary[begun].mean())
