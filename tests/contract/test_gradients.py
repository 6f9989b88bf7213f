"""Gradients are finite whatever a sequence holds, and validation leaves nothing behind for them."""

import pytest
import torch

from kt_forecast.nn.kernels import without_cudnn_attention
from kt_forecast.nn.system import auxiliary_loss
from tests.contract.systems import STEP_CAUSAL, STREAMING, SYSTEMS, WIDTH, generic, settings

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
LENGTHS = (1, 3, 59, 129)
LOUD = 30.0


@pytest.fixture(autouse=True)
def _memory_starts_as_nan():
    """Let torch fill what nobody has written yet."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


def as_trained(device):
    """Compute as the loop does: bf16 beside float32 weights on a GPU."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def trained(name, device):
    torch.manual_seed(0)
    return generic(SYSTEMS[name].build(settings(name))).to(device).train()


def noise(*shape, device):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(7))
    return drawn.to(device)


def assert_finite(module, x, device, valid=None):
    x = x.clone().requires_grad_()
    state = None if valid is None else module.init_state(len(x))
    leaves = {"x": x} | dict(module.named_parameters())
    with without_cudnn_attention():
        with as_trained(device):
            y, _ = module(x) if valid is None else module(x, state, valid=valid)
            added = auxiliary_loss(module, valid)
        real = y.float() if valid is None else y[valid].float()
        total = (real * noise(*real.shape, device=device)).sum()
        total = total if added is None else total + added
        grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    assert total.isfinite()
    bad = [
        n for n, g in zip(leaves, grads, strict=True) if g is not None and not g.isfinite().all()
    ]
    assert bad == []


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", STEP_CAUSAL)
def test_gradients_are_finite_for_loud_steps_and_for_equal_ones(name, device):
    module = trained(name, device)
    for steps in LENGTHS:
        assert_finite(module, LOUD * noise(2, steps, WIDTH, device=device), device)
    x = LOUD * noise(2, 59, WIDTH, device=device)
    assert_finite(module, x[:, :1].expand_as(x), device)
    assert_finite(module, torch.zeros_like(x), device)


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", STREAMING)
def test_gradients_are_finite_beside_padding(name, device):
    x = LOUD * noise(len(LENGTHS) + 1, max(LENGTHS), WIDTH, device=device)
    lengths = torch.tensor([*LENGTHS, 0], device=device)
    valid = torch.arange(x.shape[1], device=device) < lengths[:, None]
    assert_finite(trained(name, device), x, device, valid)
    assert_finite(trained(name, device), x, device, valid.flip(1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", STEP_CAUSAL)
def test_what_validation_leaves_behind_serves_training(name, device):
    module = trained(name, device)
    x = noise(2, 23, WIDTH, device=device)
    with torch.inference_mode(), without_cudnn_attention(), as_trained(device):
        module.eval()(x)
    with without_cudnn_attention():
        with as_trained(device):
            y, _ = module.train()(x)
        y.float().square().sum().backward()
    kept = [t for m in module.modules() for t in vars(m).values() if torch.is_tensor(t)]
    assert not any(t.is_inference() for t in (*kept, *module.buffers()))
