"""Universal Transformer against properties that only a correct one has (specs 9)."""

import pytest
import torch
from contract.systems import VOCABULARY, generic, interactions

from kt_forecast import zoo
from kt_forecast.audit import audit, causal
from kt_forecast.errors import InputError
from kt_forecast.nn.relative import sinusoids
from kt_forecast.nn.system import auxiliary_loss
from kt_forecast.tasks.forecasting import ForecastingConfig, refuse_unfit
from kt_forecast.tasks.knowledge_tracing import Tracer, TracingConfig
from kt_forecast.tracer.auditing import audit_tracer
from kt_forecast.zoo.universal_transformer import Progress

SYSTEM = zoo.load("universal_transformer")
STEPS, WIDTH = 17, 16


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixer(**settings):
    module = SYSTEM.build(SYSTEM.config(**{"width": WIDTH, "heads": 2} | settings)).double().eval()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0.0)


def told(x, time):
    return x + sinusoids(torch.tensor(time), WIDTH)


def applied(module, x, time):
    return module.layer(told(x, time), told(x, time), None, None, None)[0]


def test_once_and_without_halting_it_is_one_layer():
    module, x = mixer(times=1, halting="none"), noise(2, STEPS, WIDTH)
    same(module(x)[0], module.norm(applied(module, x, 0)))


def test_without_halting_it_is_one_layer_shared_by_all_depths():
    module, x = mixer(times=4, halting="none"), noise(2, STEPS, WIDTH)
    y = x
    for time in range(4):
        y = applied(module, y, time)
    same(module(x)[0], module.norm(y))
    deeper = SYSTEM.build(SYSTEM.config(width=WIDTH, heads=2, times=9, halting="none"))
    assert sum(p.numel() for p in deeper.parameters()) == sum(
        p.numel() for p in module.parameters()
    )


def test_a_step_that_is_sure_at_once_is_changed_once():
    module, x = mixer(times=5).train(), noise(2, STEPS, WIDTH)
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    torch.nn.init.constant_(module.halt.bias, 100.0)
    same(module(x)[0], module.norm(applied(module, x, 0)))
    same(auxiliary_loss(module, None), torch.tensor(0.01 * (1 + 1), dtype=torch.float64))


@pytest.mark.parametrize("times", [1, 2, 6])
def test_weights_add_to_one_and_each_step_halts_once(times):
    x = noise(3, 200, WIDTH)
    progress, weights = Progress.beginning(x), []
    for time in range(times):
        before = progress.running
        says = noise(3, 200, seed=time).sub(1.0).sigmoid()
        weight, progress = progress.on(says, 0.99 if time + 1 < times else -1.0)
        assert not weight[~before].any()
        assert (weight[before] > 0).all()
        weights.append(weight)
    same(sum(weights), torch.ones(3, 200, dtype=torch.float64))
    assert not progress.running.any()
    count = (torch.stack(weights) > 0).sum(0)
    last = torch.stack(weights).gather(0, count[None] - 1)[0]
    same(progress.used, count + last)
    assert times < 3 or 1 < len(count.unique()) <= times


def test_it_is_adaptive_computation_time_written_out():
    """Position by position, and depth by depth where halted steps stand still."""
    times, module, x = 5, mixer(times=5, threshold=0.1), noise(1, STEPS, WIDTH)
    torch.nn.init.constant_(module.halt.bias, -0.5)
    states, said = [x], torch.zeros(STEPS, dtype=torch.float64)
    running, result = [True] * STEPS, torch.zeros(STEPS, WIDTH, dtype=torch.float64)
    used = torch.zeros(STEPS, dtype=torch.float64)
    for time in range(times):
        new, state = applied(module, states[-1], time), states[-1].clone()
        says = torch.sigmoid(module.halt(told(states[-1], time)))[0, :, 0]
        for t in range(STEPS):
            if not running[t]:
                continue
            state[0, t] = new[0, t]
            used[t] += 1
            if said[t] + says[t] > 0.9 or time == times - 1:
                running[t] = False
                used[t] += 1 - said[t]
                result[t] += (1 - said[t]) * new[0, t]
            else:
                said[t] = said[t] + says[t]
                result[t] += says[t] * new[0, t]
        states.append(state)
    same(module(x)[0], module.norm(result)[None])
    assert len(used.floor().unique()) > 1, "all steps halt together"
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    module.train()(x)
    same(module.auxiliary[0], 0.01 * used)


def test_pondering_costs_are_learned_from():
    module, x = mixer().train(), noise(2, STEPS, WIDTH)
    torch.nn.init.constant_(module.halt.bias, -0.5)
    module(x)
    (slope,) = torch.autograd.grad(auxiliary_loss(module, None), module.halt.bias)
    assert slope < 0, "saying more leaves less over"


def test_what_others_need_changes_no_step_that_has_halted():
    module, x = mixer(times=6), noise(2, STEPS, WIDTH)
    torch.nn.init.zeros_(module.halt.weight)
    for bias in (-3.0, 100.0):
        torch.nn.init.constant_(module.halt.bias, bias)
        alone = module(x[:1])[0]
        same(module(x)[0][:1], alone)
    base = module(x)[0]
    longer = SYSTEM.build(SYSTEM.config(width=WIDTH, heads=2, times=9)).double().eval()
    longer.load_state_dict(module.state_dict())
    same(longer(x)[0], base)


def test_each_time_has_a_cache_of_its_own_and_a_window_bounds_it():
    module, x = mixer(times=3, window=4), noise(2, STEPS, WIDTH)
    _, state = module(x, module.init_state(2))
    keys = [cache.keys for cache in state.times]
    assert [k.shape[2] for k in keys] == [3, 3, 3]
    assert not torch.equal(keys[0], keys[1])
    assert not torch.equal(keys[1], keys[2])


def published(**settings):
    config = SYSTEM.config(width=WIDTH, heads=2, published=True, **settings)
    model = Tracer(SYSTEM, config, TracingConfig(scheme="shifted"), VOCABULARY, unlawful=True)
    model = generic(model.double()).eval()
    torch.nn.init.constant_(model.mixer.halt.bias, -0.5)
    return config, model


def test_halting_together_reads_the_future():
    module, x = mixer(published=True), noise(2, STEPS, WIDTH)
    other = torch.cat([x[:, :-1], 3 * noise(2, 1, WIDTH, seed=5)], 1)
    assert (module(x)[0] - module(other)[0])[:, :-1].abs().max() > 1e-3
    assert torch.equal(mixer()(x)[0][:, :-1], mixer()(other)[0][:, :-1])


@pytest.mark.parametrize(("together", "verdict"), [(True, "leak"), (False, "proved")])
def test_the_auditor_finds_that_steps_halt_together(together, verdict):
    module = mixer(published=together, times=2)
    report = audit(
        module,
        noise(1, 5, WIDTH),
        causal(),
        call=lambda inputs: module(next(iter(inputs.values())))[0],
        modes=("evaluation",),
        moments=2,
        skip=("compiled", "picture"),
    )
    assert report.verdict == verdict, report.summary()
    if together:
        assert "mean" in report.summary(), report.summary()


@pytest.mark.slow
def test_the_auditor_finds_it_in_a_tracer():
    _, model = published()
    report = audit_tracer(model, interactions(2, 9), moments=1)
    assert report.verdict == "leak", report.summary()
    assert "mean" in report.summary(), report.summary()


def test_halting_together_is_refused_where_it_would_leak():
    config, _ = published()
    with pytest.raises(InputError, match="later steps"):
        Tracer(SYSTEM, config, TracingConfig(scheme="shifted"), VOCABULARY)
    with pytest.raises(InputError, match="later steps"):
        refuse_unfit(SYSTEM, config, ForecastingConfig(dense=True))
    refuse_unfit(SYSTEM, config, ForecastingConfig(dense=False))
    with pytest.raises(InputError, match="published = false"):
        SYSTEM.build(config).init_state(1)
    with pytest.raises(ValueError, match="halting must be 'step'"):
        SYSTEM.config(published=True, halting="none")
    assert SYSTEM.config().leak == ""
    assert not SYSTEM.is_network(config)
