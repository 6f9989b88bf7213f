"""What the tests of systems with sparse attention share."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kt_forecast import zoo
from kt_forecast.audit import audit, causal
from kt_forecast.errors import InputError
from kt_forecast.tasks.forecasting import ForecastingConfig, refuse_unfit
from kt_forecast.tasks.knowledge_tracing import TracingConfig, refuse_illegal


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(module):
    """Give every parameter a random value: what starts at zero would hide what it gates."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module.double().eval()


def full_attention(module, *, width, heads, layers):
    """Return GPT with the weights of a stack whose layers hold the same parts."""
    gpt = zoo.load("gpt")
    plain = gpt.build(gpt.config(width=width, heads=heads, layers=layers)).double().eval()
    ours = {
        name.replace(".norm.", ".attention_norm.").replace(".mixing.", ".attention."): value
        for name, value in module.state_dict().items()
    }
    plain.load_state_dict(ours)
    return plain


def same_with_gradients(first, second, inputs, *, tolerance=1e-10):
    """Compare two functions' results and the gradients of their inputs."""
    results = [f(*inputs) for f in (first, second)]
    torch.testing.assert_close(*results, atol=tolerance, rtol=0.0)
    weight = noise(*results[0].shape, seed=77)
    slopes = [torch.autograd.grad((y * weight).sum(), inputs) for y in results]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def largest_tensor(run):
    """Return the numbers in the largest tensor that any operation inside ``run`` makes."""

    class Watch(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for one in result if isinstance(result, tuple | list) else [result]:
                if torch.is_tensor(one):
                    self.most = max(self.most, one.untyped_storage().nbytes() // one.element_size())
            return result

    with Watch() as watch:
        run()
    return watch.most


def audited(module, x):
    """Return the auditor's report on a mixer that should be causal."""
    return audit(
        module,
        x,
        causal(axis=1),
        call=lambda inputs: module(*inputs.values())[0],
        modes=("evaluation",),
        moments=2,
    )


def refused_where_it_would_leak(system, settings):
    """Assert that only a forecast from one origin may use these settings."""
    with pytest.raises(InputError, match=r"published ?= ?true"):
        refuse_illegal(system, settings, TracingConfig(scheme="shifted"))
    with pytest.raises(InputError, match="dense = false"):
        refuse_unfit(system, settings, ForecastingConfig(dense=True))
    refuse_unfit(system, settings, ForecastingConfig(dense=False))
    with pytest.raises(InputError, match="published = false"):
        system.build(settings).init_state(1)


def moved_before_cuts(module, x, scale):
    """Return by how much outputs move where all that follows them is replaced, at every cut."""
    base, moved = module(x)[0], 0.0
    rows, steps, width = x.shape
    for cut in range(1, steps):
        later = scale * noise(rows, steps - cut, width, seed=cut)
        found = module(torch.cat([x[:, :cut], later], 1))[0]
        moved = max(moved, float((found - base)[:, :cut].detach().abs().max()))
    return moved


def has_slopes_ahead(module, x):
    """Return whether the slope of any fourth output shows a step after it."""
    x = x.clone().requires_grad_()
    y = module(x)[0]
    ahead = (
        torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)[0][:, t + 1 :]
        for t in range(0, x.shape[1] - 1, 4)
    )
    return any(bool(slope.any()) for slope in ahead)


def slopes(module, x):
    """Return how much each output step (row) depends on each input step (column)."""
    jacobian = torch.autograd.functional.jacobian(lambda t: module(t)[0].sum((0, 2)), x)
    return jacobian[:, 0].abs().sum(-1)


def close_under_autocast(mixer, x):
    """Assert that training in half precision gives about the slopes that full precision gives."""
    mixer = mixer.float().train()

    def slope(*, half):
        given = x.float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            mixer(given)[0].float().square().mean().backward()
        return given.grad

    found, wanted = slope(half=True), slope(half=False)
    assert found.isfinite().all()
    assert torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), 0) > 0.9
